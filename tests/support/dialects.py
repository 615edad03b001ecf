"""What the tests of dialects share: a parser of readings, and readers of answers. No server, no generation."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybridstitch.errors import InvalidInput
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.wire.dialects.dialect import Dialect, Reading
from hybridstitch.wire.dialects.kserve_v1 import KServeV1
from hybridstitch.wire.dialects.kserve_v2 import KServeV2
from hybridstitch.wire.dialects.openai import OpenAIImages
from hybridstitch.wire.documents import Rendering
from hybridstitch.wire.request import GenerationRequest, parse_request
from tests.support.bad_requests import LIMITS

QUALITY = {"auto": None, "low": 4.0, "medium": 2.5, "high": 1.83}
OPENAI, V1, V2 = OpenAIImages(QUALITY), KServeV1(), KServeV2("hybridstitch", "1.0")
TENSOR = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["x"]}
REPORT: dict[str, Any] = {
    "recipe": {"name": "small"},
    "large_token_share": 0.0,
    "flops_share": 0.1,
    "timing_ms": {"denoise": 2.5},
    "warnings": [],
}


@cache
def parser(pair: Path) -> Callable[[Reading], GenerationRequest]:
    """Returns the request of a reading, on an endpoint with this pair."""
    catalogue = Catalogue.load().of_pair(pair)

    def parse(reading: Reading) -> GenerationRequest:
        return reading.parsed(lambda fields: parse_request(fields, {}, LIMITS, catalogue, request_id="id"))

    return parse


def refused(parse: Any, dialect: Dialect, body: Any) -> dict[str, str]:
    """The wrong fields of a body with one request, with what was expected there."""
    with pytest.raises(InvalidInput) as error:
        parse(dialect.read(body).readings[0])
    assert len({problem.field for problem in error.value.problems}) == len(error.value.problems)
    return {problem.field: problem.expected for problem in error.value.problems}


def rendering(request: GenerationRequest) -> Rendering:
    size = (request.generation.width, request.generation.height)
    pictures = [Image.new("RGB", size, (seed % 256, 40, 90)) for seed in request.seeds]
    return Rendering(request, pictures, REPORT)


def document(body: bytes) -> Any:
    return json.loads(body)


def colour(b64_json: str) -> tuple[str, int]:
    """The format of a picture, and the red of its first pixel, which is its seed."""
    image = Image.open(io.BytesIO(base64.b64decode(b64_json)))
    return image.format or "", int(np.asarray(image)[0, 0, 0])


def events(body: bytes) -> list[tuple[str, Any]]:
    """The server-sent events in a piece of a stream."""
    found = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        assert (name[:7], data[:6]) == ("event: ", "data: ")
        found.append((name[7:], json.loads(data[6:])))
    return found
