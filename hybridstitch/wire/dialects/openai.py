"""The images dialect of OpenAI's clients: `POST …/v1/images/generations`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybridstitch.base.images import base64_text, encode_image
from hybridstitch.base.schema import integer, mismatch
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import Problem
from hybridstitch.wire.dialects.dialect import Asked, Dialect, Event, Reading, Result
from hybridstitch.wire.documents import Response, document_of, headers_of, json_response
from hybridstitch.wire.failures import Failure
from hybridstitch.wire.request import GenerationRequest

PATH = "v1/images/generations"
"""The path of the dialect below a model, or below a server."""
EVENTS = "text/event-stream"
AUTO = "auto"
"""The value of `quality` and of `size` where a client sends none."""
MOST_PARTIAL_IMAGES = 3

_RENAMED = {"n": "num_images", "output_compression": "output_quality", "partial_images": "previews"}
_NO_EFFECT = ("model", "user", "safety_identifier")
"""Fields with any value: one address is one model, and nothing is kept about users."""
_DEFAULTS_ALONE: dict[str, tuple[str, ...]] = {
    "response_format": ("b64_json",),
    "background": ("auto", "opaque"),
    "moderation": ("auto",),
    "style": (),
    "complexity": (),
    "frame_count": (),
    "frame_duration_ms": (),
    "svg": (),
}
"""Fields that this endpoint cannot honour, with the values that state what it does anyway."""


@dataclass(frozen=True)
class OpenAIImages(Dialect):
    """A body is one request by the field names of OpenAI's clients, with this project's fields beside them.

    Attributes:
        quality: For each value of `quality`, at least `auto`: the speed, or None for the default recipe. An endpoint
            without recipes has `auto` alone, with None.
    """

    quality: Mapping[str, float | None]
    name: str = "openai"

    def read(self, payload: Any) -> Asked:
        """Return the one request. Null means that a field is not set."""
        if not isinstance(payload, dict):
            return Asked((Reading(payload),))
        sent = {name: value for name, value in payload.items() if value is not None}
        problems: list[Problem] = []
        for name in _NO_EFFECT:
            sent.pop(name, None)
        for name, allowed in _DEFAULTS_ALONE.items():
            value = sent.pop(name, None)
            if value is not None and value not in allowed:
                problems.append(Problem(name, _without(allowed), value))
        quality, size = sent.pop("quality", AUTO), sent.pop("size", AUTO)
        renamed = {}
        for theirs, ours in _RENAMED.items():
            if theirs in sent:
                problems += [Problem(theirs, f"nothing beside {ours}", sent[theirs])] if ours in sent else []
                sent[ours], renamed[ours] = sent.pop(theirs), theirs
        problems += _limit(sent, renamed, "output_quality", 0, 100)
        problems += _limit(sent, renamed, "previews", 0, MOST_PARTIAL_IMAGES)
        if "output_quality" in renamed and sent.get("output_quality") == 0:
            sent["output_quality"] = 1
        problems += self._take_quality(quality, sent, renamed)
        problems += _take_size(size, sent, renamed)
        sent.setdefault("stream", False)  # an operator's default is not for clients that read whole answers
        reading = Reading(sent | {"response_format": "json"}, tuple(problems), renamed)
        return Asked((reading,), {"quality": quality})

    def _take_quality(self, quality: Any, sent: dict[str, Any], renamed: dict[str, str]) -> list[Problem]:
        """Add what a quality means to the fields. Returns the problem if there is one."""
        if not isinstance(quality, str) or quality not in self.quality:
            return [Problem("quality", one_of(self.quality, quality), quality)]
        named = [name for name in ("speed", "recipe") if name in sent]
        if named:
            return [] if quality == AUTO else [Problem("quality", f"{AUTO} beside {' and '.join(named)}", quality)]
        speed = self.quality[quality]
        if speed is not None:
            sent["speed"], renamed["speed"] = speed, "quality"
        return []

    def answer(self, asked: Asked, results: Sequence[Result]) -> Response:
        """Return `{"created", "data": [{"b64_json", "seed"}], "output_format", "size", "quality", …}`."""
        (result,) = results
        if isinstance(result, Failure):
            return self.error(result)
        content = document_of(result) | _described(result.request, asked)
        return json_response(content, headers_of(result) | _id(result.request_id))

    def error(self, failure: Failure) -> Response:
        """Return `{"error": {"message", "type", "param", "code"}}`. No client should retry a refused request."""
        headers = _id(failure.request_id)
        if failure.kind in ("numerical_error", "response_too_large"):
            headers["x-should-retry"] = "false"  # their client retries every other status 500
        return replace(json_response(_error(failure), headers), status=failure.status, outcome=failure.kind)

    def event(self, event: Event, asked: Asked) -> Response | None:
        """Return a partial image in the format of the picture; other news has no place in this dialect."""
        if event.name != "preview":
            return None
        request, picture = event.request, event.content["picture"]
        content = {
            "b64_json": base64_text(encode_image(picture, request.output_format, quality=request.output_quality)),
            "partial_image_index": event.content["index"],
            "image": event.content["image"],
            "created_at": int(time.time()),
        }
        return _pieces([("image_generation.partial_image", content | _described(request, asked))])

    def ending(self, asked: Asked, result: Result) -> Response:
        """Return an event `image_generation.completed` for each picture, or the event `error`."""
        if isinstance(result, Failure):
            return replace(_pieces([("error", _error(result))]), outcome=result.kind)
        document, described = document_of(result), _described(result.request, asked)
        about = {"created_at": document["created"], **described, "report": document["report"]}
        pictures = enumerate(document["data"])
        return _pieces([("image_generation.completed", each | {"image": index} | about) for index, each in pictures])


def _limit(sent: dict[str, Any], renamed: Mapping[str, str], name: str, low: int, high: int) -> list[Problem]:
    """Take out a renamed field that is beyond the range of this dialect. Returns its problem if there is one."""
    if name not in renamed or (rule := mismatch(integer(low, high), sent[name])) is None:
        return []
    return [Problem(renamed[name], rule, sent.pop(name))]


def _take_size(size: Any, sent: dict[str, Any], renamed: dict[str, str]) -> list[Problem]:
    """Add width and height to the fields. Returns the problem if there is one."""
    if size == AUTO:
        return []
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size) if isinstance(size, str) else None
    if found is None:
        return [Problem("size", f"{AUTO}, or WIDTHxHEIGHT in pixels", size)]
    named = [name for name in ("width", "height") if name in sent]
    if named:
        return [Problem("size", f"{AUTO} beside {' and '.join(named)}", size)]
    for name, value in zip(("width", "height"), found.groups(), strict=True):
        sent[name], renamed[name] = int(value), "size"
    return []


def _without(allowed: Sequence[str]) -> str:
    words = f"nothing, or one of: {', '.join(allowed)}" if allowed else "nothing"
    return f"{words}; this endpoint has no other"


def _described(request: GenerationRequest, asked: Asked) -> dict[str, Any]:
    """Return the fields of an answer and of an event that repeat what was requested."""
    generation = request.generation
    return {
        "background": "opaque",
        "output_format": request.output_format,
        "size": f"{generation.width}x{generation.height}",
        "quality": asked.echo["quality"],
    }


def _error(failure: Failure) -> dict[str, Any]:
    refused = failure.status < 500
    return {
        "error": {
            "message": failure.sentence,
            "type": "invalid_request_error" if refused else "server_error",
            "param": failure.problems[0].field if failure.problems else None,
            "code": failure.kind,
            **({"problems": [problem.to_dict() for problem in failure.problems]} if failure.problems else {}),
        }
    }


def _id(request_id: str | None) -> dict[str, str]:
    """Return the header in which their clients look for the id of a request."""
    return {"x-request-id": request_id} if request_id else {}


def _pieces(events: Sequence[tuple[str, dict[str, Any]]]) -> Response:
    """Return server-sent events, each a name and its content."""
    lines = [
        f"event: {name}\ndata: {json.dumps({'type': name, **content}, allow_nan=False)}\n\n" for name, content in events
    ]
    return Response("".join(lines).encode(), EVENTS)
