"""A pair folder as an endpoint in this process, with the same fields and pictures as a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hybridstitch.base.images import encode_image
from hybridstitch.compare.endpoints.spec import NO_FIELDS, Answer, Spec
from hybridstitch.errors import InvalidInput, Problem


class PairEndpoint:
    """Generates with `HybridStitchPipeline`, one picture at a time. Both sides share the models of one folder.

    Raises InvalidInput for fields that the pair does not take.
    """

    def __init__(self, spec: Spec, side: str):
        self.spec, self.kind = spec, "pair"
        if spec.kind != "auto" or not spec.sends_seed:
            raise InvalidInput([Problem(f"{side}#kind", "no kind and no seed=off for the folder of a pair", spec.text)])
        self._pipeline, self._lock = _opened(Path(spec.target).resolve())
        try:
            self._parse("any", 0)
        except InvalidInput as error:
            found = [Problem(f"{side}#{each.field}", each.expected, each.got) for each in error.problems]
            raise InvalidInput(found) from error

    def ask(self, prompt: str, seed: int, fields: Mapping[str, Any] = NO_FIELDS) -> Answer:
        """Generate one picture. Time spent waiting for another picture counts, as in the queue of a server."""
        from hybridstitch.serving.worker.render import generate

        started = time.perf_counter()
        try:
            request = self._parse(prompt, seed, fields)
            with self._lock:
                rendering = generate(self._pipeline, request)
        except (ValueError, RuntimeError, FloatingPointError, MemoryError) as error:
            return Answer(time.perf_counter() - started, error=f"{type(error).__name__}: {error}"[:300])
        seconds = time.perf_counter() - started
        return Answer(seconds, encode_image(rendering.images[0], "png"), "png", rendering.report)

    def describe(self) -> dict[str, Any]:
        """Return device, dtype and a fingerprint of the weights."""
        from hybridstitch.model.parts import fingerprint

        large = self._pipeline.large
        return {
            "kind": self.kind,
            "sends_seed": True,
            "device": str(large.device),
            "dtype": str(large.dtype).removeprefix("torch."),
            "weights": fingerprint(self._pipeline),
        }

    def _parse(self, prompt: str, seed: int, fields: Mapping[str, Any] = NO_FIELDS) -> Any:
        from hybridstitch.wire.request import parse_request

        payload = {**fields, **self.spec.fields, "prompt": prompt, "seed": seed}
        pipe = self._pipeline
        return parse_request(payload, {}, pipe.size_limits, pipe.catalogue, loras=pipe.adapters.names)


@cache
def _opened(folder: Path) -> tuple[Any, threading.Lock]:
    """Return the pipeline of a folder, loaded once, and a lock that admits one generation at a time."""
    import torch

    from hybridstitch.base.quiet import hide_loading
    from hybridstitch.pipeline import HybridStitchPipeline

    hide_loading()
    pipeline = HybridStitchPipeline.from_pretrained(folder, device="cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, threading.Lock()
