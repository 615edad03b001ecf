"""Encodes what a client receives: a picture, a JSON document, an event of a stream, or an error."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from hybridstitch.base.images import base64_text, encode_image
from hybridstitch.wire.failures import Failure
from hybridstitch.wire.names import HEADER_PREFIX, METADATA_KEY
from hybridstitch.wire.request import GenerationRequest

ENVELOPE_BYTES = 2**16  # headers and framing count towards the limit


@dataclass(frozen=True)
class Rendering:
    """The pictures of a request.

    Attributes:
        request: The request with all defaults filled in, so that it generates the same pictures again.
        images: The pictures in the order of their seeds.
        report: What was computed, as JSON values.
    """

    request: GenerationRequest
    images: Sequence[Image.Image]
    report: dict[str, Any]

    @property
    def request_id(self) -> str:
        return self.request.request_id


@dataclass(frozen=True)
class Response:
    """One HTTP answer.

    Attributes:
        body: The body.
        content_type: Its type.
        headers: The other headers.
        status: HTTP's status.
        outcome: "ok", or the error's type. Metrics count it.
    """

    body: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    outcome: str = "ok"


def encode(rendering: Rendering) -> Response:
    """The answer in the format that the request names."""
    request = rendering.request
    if request.response_format == "image":
        picture = encode_picture(rendering.images[0], request)
        return Response(picture, f"image/{request.output_format}", headers_of(rendering))
    return json_response(document_of(rendering), headers_of(rendering))


def document_of(rendering: Rendering) -> dict[str, Any]:
    """The document of a JSON answer."""
    request, report = rendering.request, rendering.report
    pictures = [encode_picture(image, request.of_image(index)) for index, image in enumerate(rendering.images)]
    return {
        "created": int(time.time()),
        "data": [
            {"b64_json": base64_text(picture), "seed": seed}
            for picture, seed in zip(pictures, request.seeds, strict=True)
        ],
        "report": report,
        "warnings": report["warnings"],
    }


def too_long(answer: Response, limit: int | None) -> Failure | None:
    """Why an answer of more than `limit` bytes cannot be sent: it would end the worker. None if it can."""
    if limit is None or len(answer.body) <= limit - ENVELOPE_BYTES:
        return None
    message = f"the answer has {len(answer.body)} bytes, the server allows {limit}; request fewer or smaller pictures"
    return Failure("response_too_large", message, 500)


def encode_picture(image: Image.Image, request: GenerationRequest) -> bytes:
    """The picture as PNG, JPEG or WebP. A PNG carries its request, which generates the same picture again."""
    if request.output_format == "png":
        again = json.dumps({**request.to_dict(), "response_format": "image"}, sort_keys=True)
        return encode_image(image, "png", {METADATA_KEY: again})
    return encode_image(image, request.output_format, quality=request.output_quality)


def failed(failure: Failure) -> Response:
    """The error document of this project as an answer."""
    headers = {f"{HEADER_PREFIX}request-id": failure.request_id} if failure.request_id else {}
    return replace(json_response(error_document(failure), headers), status=failure.status, outcome=failure.kind)


def error_document(failure: Failure) -> dict[str, Any]:
    """`{"error": {"type", "message", "problems"?, "request_id"?}}`."""
    problems = {"problems": [problem.to_dict() for problem in failure.problems]} if failure.problems else {}
    named = {"request_id": failure.request_id} if failure.request_id else {}
    return {"error": {"type": failure.kind, "message": failure.message, **problems, **named}}


def headers_of(rendering: Rendering) -> dict[str, str]:
    """The headers of an answer that describe its picture."""
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


def json_response(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """A document as an answer."""
    # ASCII only: a refused value may hold characters that UTF-8 cannot carry.
    return Response(json.dumps(document, allow_nan=False).encode(), "application/json", headers or {})
