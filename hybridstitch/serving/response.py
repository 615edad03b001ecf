"""What a client gets back: a picture, a JSON document, or an error that says what to change."""

from __future__ import annotations

import base64
import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hybridstitch.errors import InvalidInput
from hybridstitch.serving.request import GenerationRequest

MAX_PROBLEMS = 50  # bounds the error answer: one larger than TorchServe's limit would end the worker
METADATA_KEY = "hybridstitch"  # the text chunk of a PNG that holds its request
HEADER_PREFIX = "x-hybridstitch-"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rendering:
    """One rendered picture with the request it answers and the report of what was computed (interface JSON)."""

    request: GenerationRequest
    image: Image.Image
    report: dict[str, Any]

    @property
    def request_id(self) -> str:
        return self.request.request_id


@dataclass(frozen=True)
class Answer:
    """What goes over the wire: body, type, extra headers and HTTP status."""

    body: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


def attempt(step: Callable[[Any], Any], item: Any) -> Any:
    """Apply `step` to `item`; an error becomes its Answer, and an item that is one already passes through.

    So one wrong request of a batch ends early while its neighbours go on, and nothing ends the worker.
    """
    if isinstance(item, Answer):
        return item
    try:
        return step(item)
    except Exception as error:
        return error_answer(error, getattr(item, "request_id", None))


def encode(rendering: Rendering) -> Answer:
    """The answer in the format that the request asks for."""
    request, report = rendering.request, rendering.report
    picture = encode_picture(rendering.image, request)
    headers = _headers(rendering)
    if request.response_format == "image":
        return Answer(picture, f"image/{request.output_format}", headers)
    document = {
        "created": int(time.time()),
        "data": [{"b64_json": base64.b64encode(picture).decode(), "seed": request.seed}],
        "report": report,
        "warnings": report["warnings"],
    }
    return _json_answer(document, headers=headers)


def encode_picture(image: Image.Image, request: GenerationRequest) -> bytes:
    """The picture as PNG, JPEG or WebP bytes; a PNG carries the request that makes it again."""
    options: dict[str, Any] = {"quality": request.output_quality}
    if request.output_format == "png":
        metadata = PngInfo()
        metadata.add_text(METADATA_KEY, json.dumps(request.to_dict(), sort_keys=True))
        options = {"pnginfo": metadata}
    buffer = io.BytesIO()
    image.save(buffer, format=request.output_format, **options)
    return buffer.getvalue()


def error_answer(error: Exception, request_id: str | None = None) -> Answer:
    """The error document: 400 with every problem for a refused input, else 500 with the details in the log."""
    if isinstance(error, InvalidInput):
        problems = [problem.to_dict() for problem in error.problems[:MAX_PROBLEMS]]
        names = ", ".join(problem["field"] for problem in problems)
        logger.info("refused a request: %r", names)
        message = f"{len(error.problems)} problem(s) with the request: {names}"
        return _error("invalid_request", message, 400, problems=problems)
    logger.error("request %s failed", request_id, exc_info=error)
    if isinstance(error, FloatingPointError):
        return _error("numerical_error", str(error), 500, request_id=request_id)
    message = f"{type(error).__name__} while answering; the server's log has the details"
    return _error("internal_error", message, 500, request_id=request_id)


def _headers(rendering: Rendering) -> dict[str, str]:
    report = rendering.report
    values = {
        "seed": rendering.request.seed,
        "recipe": report["recipe"]["name"],
        "large-token-share": report["large_token_share"],
        "flops-share": report["flops_share"],
        "request-id": rendering.request_id,
    }
    if "denoise" in report["timing_ms"]:
        values["denoise-ms"] = report["timing_ms"]["denoise"]
    return {HEADER_PREFIX + name: str(value) for name, value in values.items()}


def _error(kind: str, message: str, status: int, **details: Any) -> Answer:
    return _json_answer({"error": {"type": kind, "message": message, **details}}, status=status)


def _json_answer(document: dict[str, Any], headers: dict[str, str] | None = None, status: int = 200) -> Answer:
    # ASCII only: a refused value may hold characters that UTF-8 cannot carry.
    return Answer(json.dumps(document, allow_nan=False).encode(), "application/json", headers or {}, status)
