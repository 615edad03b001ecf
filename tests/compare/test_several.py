"""Several endpoints in one interleaved run, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybridstitch.base.images import encode_image
from hybridstitch.compare.endpoints.spec import NO_FIELDS, Answer, Spec
from hybridstitch.compare.several import interleaved, summarise, table


class Painter:
    """Answers with a picture of one grey, and notes who was called."""

    def __init__(self, name: str, calls: list[str], seconds: float, grey: int):
        self.spec, self._name, self._calls = Spec(name, name), name, calls
        picture = encode_image(Image.fromarray(np.full((16, 16, 3), grey, np.uint8)), "png")
        self.answer = Answer(seconds, picture, "png", {"flops_share": seconds})

    def ask(self, prompt: str, seed: int, fields: Mapping[str, Any] = NO_FIELDS) -> Answer:
        self._calls.append(f"{self._name}{seed}")
        return self.answer

    def describe(self) -> dict[str, Any]:
        return {}


def test_the_order_rotates_and_the_first_endpoint_is_the_baseline() -> None:
    calls: list[str] = []
    endpoints = {
        "plain": Painter("p", calls, 1.0, 100),
        "half": Painter("h", calls, 0.5, 100),
        "far": Painter("f", calls, 0.25, 0),
    }
    rows = summarise(interleaved(endpoints, ["one", "two"], 0.0))
    assert calls == ["p0", "h0", "f0", "h1", "f1", "p1"]
    assert [row["speedup"] for row in rows] == [1, 2, 4]
    assert [row["flops_speedup"] for row in rows] == [1, 2, 4]
    lines = table(rows).splitlines()
    assert lines[0].endswith("| PSNR to plain, dB |")
    assert lines[3] == "| half | 2 | 0.500 (0.500 to 0.500) | 2.00x (2.00 to 2.00) | 2.00x | equal |"
    assert lines[4].endswith("| 8.1 ± 0.0 |")


def test_a_failed_request_ends_the_run() -> None:
    endpoint = Painter("p", [], 1.0, 0)
    endpoint.answer = Answer(1.0, error="503: busy")
    with pytest.raises(RuntimeError, match="plain, prompt 0: 503: busy"):
        interleaved({"plain": endpoint}, ["one"], 0.0)
