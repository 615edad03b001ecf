"""This project's own JSON: the fields of docs/interface.md, and pictures or documents as answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybridstitch.base.images import base64_text, encode_image
from hybridstitch.wire.dialects.dialect import Asked, Dialect, Event, Reading, Result
from hybridstitch.wire.documents import Response, encode, failed
from hybridstitch.wire.failures import Failure
from hybridstitch.wire.names import STREAM_TYPE

PREVIEW_QUALITY = 80


@dataclass(frozen=True)
class Own(Dialect):
    """A body is one request. A stream is newline-delimited JSON."""

    name: str = "own"

    def read(self, payload: Any) -> Asked:
        """Return the body as it is."""
        return Asked((Reading(payload),))

    def answer(self, asked: Asked, results: Sequence[Result]) -> Response:
        """Return the bytes of the picture or the JSON document, by the `response_format` of the request."""
        (result,) = results
        return self.error(result) if isinstance(result, Failure) else encode(result)

    def error(self, failure: Failure) -> Response:
        """Return `{"error": {"type", "message", …}}`."""
        return failed(failure)

    def event(self, event: Event, asked: Asked) -> Response:
        """Return a line `{"event": NAME, …}`. Previews are JPEG."""
        content = dict(event.content)
        if event.name == "preview":
            picture = encode_image(content.pop("picture"), "jpeg", quality=PREVIEW_QUALITY)
            del content["index"]
            content |= {"format": "jpeg", "b64_json": base64_text(picture)}
        return _line(event.name, content)

    def ending(self, asked: Asked, result: Result) -> Response:
        """Return the line of the event `result` or `error`."""
        answer = self.answer(asked, [result])
        name = "result" if answer.outcome == "ok" else "error"
        return replace(_line(name, json.loads(answer.body)), outcome=answer.outcome)


def _line(name: str, content: dict[str, Any]) -> Response:
    return Response((json.dumps({"event": name, **content}, allow_nan=False) + "\n").encode(), STREAM_TYPE)
