"""The shapes of requests and answers that endpoints have: one small adapter for each shape."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from hybridstitch.base.images import encode_image

MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}
FORMATS = {"png": ("PNG",), "jpg": ("JPEG",), "webp": ("WEBP",)}
MAX_PIXELS = 2**26
"""A larger picture is refused before it is decoded."""
MAX_WALK = 10_000
"""The most values of a JSON answer that are searched for a picture."""

Document = Any
Fields = Mapping[str, Any]


class UnreadableAnswerError(ValueError):
    """An answer without a picture, with more than one, or of another shape than the expected one."""


@dataclass(frozen=True)
class Picture:
    """Encoded bytes, their format (`png`, `jpg` or `webp`), and the report that came with them, if any."""

    data: bytes
    extension: str
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Shape:
    """One kind of endpoint.

    Attributes:
        request: Returns the arguments of `requests.post` for a prompt, a seed (None: send none) and fields.
        read: Returns the picture in the body of an answer. Raises UnreadableAnswerError.
        links: Whether an answer may hold the address of the picture instead, see `linked`.
    """

    request: Callable[[str, int | None, Fields], dict[str, Any]]
    read: Callable[[bytes], Picture]
    links: bool = False


def checked(data: bytes) -> Picture:
    """Return the picture in these bytes. Raises UnreadableAnswerError unless it is a whole PNG, JPEG or WebP."""
    extension = next((name for magic, name in MAGIC.items() if data.startswith(magic)), None)
    if extension is None:
        raise UnreadableAnswerError("not the bytes of a PNG, JPEG or WebP picture")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS[extension]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableAnswerError(f"a picture of {image.width}x{image.height} pixels, {MAX_PIXELS} at most")
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableAnswerError(f"a picture that cannot be decoded: {error}") from error
    return Picture(data, extension)


def recognised(body: bytes) -> Picture:
    """Return the picture in an answer of any shape. Raises UnreadableAnswerError."""
    if any(body.startswith(magic) for magic in MAGIC):
        return checked(body)
    document = _json(body)
    return _pixels(document) if isinstance(document, list) and _is_nested(document) else _from_base64(document)


def linked(body: bytes) -> str | None:
    """Return the address of the picture in a JSON answer; None if there is none.

    A field `url` takes precedence over other texts that are addresses.

    Raises:
        UnreadableAnswerError: The answer holds several addresses.
    """
    try:
        document = _json(body)
    except UnreadableAnswerError:
        return None
    found = dict.fromkeys(text for text in _strings(document, "url") if text and not _decoded(text))
    found = found or dict.fromkeys(text for text in _strings(document) if text.startswith(("http://", "https://")))
    if len(found) > 1:
        raise UnreadableAnswerError(f"{len(found)} addresses of pictures, expected one")
    return next(iter(found), None)


def _json_request(prompt: str, seed: int | None, fields: Fields) -> dict[str, Any]:
    return {"json": {"prompt": prompt, **({} if seed is None else {"seed": seed}), **fields}}


def _ours_request(prompt: str, seed: int | None, fields: Fields) -> dict[str, Any]:
    return _json_request(prompt, seed, {**fields, "response_format": "json"})


def _openai_request(prompt: str, seed: int | None, fields: Fields) -> dict[str, Any]:
    return _json_request(prompt, seed, {**fields, "n": 1, "response_format": "b64_json"})


def _instances_request(prompt: str, seed: int | None, fields: Fields) -> dict[str, Any]:
    return {"json": {"instances": [_json_request(prompt, seed, fields)["json"]]}}


def _tensors_request(prompt: str, seed: int | None, fields: Fields) -> dict[str, Any]:
    return {"json": {"inputs": [_tensor(*each) for each in _json_request(prompt, seed, fields)["json"].items()]}}


def _tensor(name: str, value: Any) -> dict[str, Any]:
    """Return one value as a tensor of the Open Inference Protocol; lists and objects are JSON texts."""
    kinds = {bool: "BOOL", int: "INT64", float: "FP64"}
    text = value if isinstance(value, str) else json.dumps(value)
    kind = kinds.get(type(value), "BYTES")
    return {"name": name, "shape": [1], "datatype": kind, "data": [text if kind == "BYTES" else value]}


def _text_request(prompt: str, _seed: int | None, _fields: Fields) -> dict[str, Any]:
    return {"data": prompt.encode(), "headers": {"Content-Type": "text/plain; charset=utf-8"}}


def _read_base64(body: bytes) -> Picture:
    return _from_base64(_json(body))


def _read_prediction(body: bytes) -> Picture:
    """Return the picture of the first prediction, with the report in it if there is one."""
    document = _json(body)
    predictions = document.get("predictions") if isinstance(document, dict) else None
    if not isinstance(predictions, list) or len(predictions) != 1:
        raise UnreadableAnswerError("no list of one prediction")
    return _from_base64(predictions[0])


def _read_tensors(body: bytes) -> Picture:
    """Return the picture among the output tensors, with the report in the tensor of that name if there is one."""
    document = _json(body)
    outputs = document.get("outputs") if isinstance(document, dict) else None
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise UnreadableAnswerError("no list of output tensors")
    picture = _from_base64([each.get("data") for each in outputs])
    reports = [text for each in outputs if each.get("name") == "report" for text in _strings(each.get("data"))]
    report = _json(reports[0].encode()) if len(reports) == 1 else None
    return replace(picture, report=report if isinstance(report, dict) else None)


def _read_pixels(body: bytes) -> Picture:
    return _pixels(_json(body))


def _from_base64(document: Document) -> Picture:
    """Return the only picture among the strings of a JSON document, as base64 or a data URL."""
    found = [data for text in _strings(document) if (data := _decoded(text))]
    if len(found) != 1:
        raise UnreadableAnswerError(f"{len(found) or 'no'} pictures in base64, expected one")
    report = document.get("report") if isinstance(document, dict) else None
    picture = checked(found[0])
    return Picture(picture.data, picture.extension, report if isinstance(report, dict) else None)


def _strings(document: Document, key: str | None = None) -> Iterator[str]:
    """Yield every text in a document, or only the texts under a key."""
    waiting: list[tuple[str | None, Document]] = [(None, document)]
    seen = 0
    while waiting and seen < MAX_WALK:
        name, value = waiting.pop()
        seen += 1
        if isinstance(value, str):
            if key in (None, name):
                yield value
        elif isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, each) for each in value]


def _decoded(text: str) -> bytes | None:
    """Return the picture in a string; None for any other text."""
    if text.startswith("data:image/"):
        text = text.partition(";base64,")[2]
    try:
        data = base64.b64decode("".join(text.split()), validate=True)  # some break the lines
    except (binascii.Error, ValueError):
        return None
    return data if any(data.startswith(magic) for magic in MAGIC) else None


def _is_nested(document: Document) -> bool:
    for _ in range(3):
        if not isinstance(document, list) or not document:
            return False
        document = document[0]
    return isinstance(document, int | float | list)


def _pixels(document: Document) -> Picture:
    """Return the picture in lists `[row][column][channel]` of 0 to 255, which TorchServe's diffusers example sends."""
    try:
        values = np.asarray(document, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UnreadableAnswerError("not rows of columns of three channels") from error
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim != 3 or values.shape[2] != 3 or not values.size or values.size > 3 * MAX_PIXELS:
        raise UnreadableAnswerError(f"rows of columns of three channels expected, got numbers of shape {values.shape}")
    if not ((values >= 0) & (values <= 255) & (values == np.round(values))).all():  # false for NaN
        raise UnreadableAnswerError("channels are whole numbers of 0 to 255")
    return Picture(encode_image(Image.fromarray(values.astype(np.uint8)), "png"), "png")


def _json(body: bytes) -> Document:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadableAnswerError(f"neither a picture nor JSON: {body[:60]!r}") from error


SHAPES: dict[str, Shape] = {
    "hybridstitch": Shape(_ours_request, _read_base64),
    "image": Shape(_json_request, checked),
    "base64": Shape(_json_request, _read_base64, links=True),
    "pixels": Shape(_json_request, _read_pixels),
    "text": Shape(_text_request, recognised, links=True),
    "openai": Shape(_openai_request, _read_base64, links=True),
    "kserve-v1": Shape(_instances_request, _read_prediction),
    "kserve-v2": Shape(_tensors_request, _read_tensors),
}
"""The shapes by kind.

`hybridstitch`: JSON with the report, from either archive of this project. `image`: the bytes of a picture. `base64`:
JSON with one picture anywhere in it. `pixels`: nested lists of channels. `text`: the request is the prompt alone, and
the answer has any shape, as with TorchServe's diffusers example. `openai`: `POST /v1/images/generations`. `kserve-v1`,
also Vertex AI's: one of `instances`. `kserve-v2`, the Open Inference Protocol: each field is one of `inputs`.
"""
PATHS: dict[str, str] = {
    "/images/generations$": "openai",
    "/v1/models/[^/]+:predict$": "kserve-v1",
    "/v2/models/[^/]+(/versions/[^/]+)?/infer$": "kserve-v2",
}
"""The kinds that the path of an address shows, by regular expression."""
ANY = Shape(_json_request, recognised, links=True)
"""The shape of an endpoint without a kind: a JSON request, and an answer of any shape."""
