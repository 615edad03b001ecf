"""What a server sends back over any transport: a raw reply, a picture with its report, or an error."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from PIL import Image

INVALID_KEY = "InvalidKeyException"
"""TorchServe's kind of error for a token that is missing, wrong or expired."""

STATUS_OF_KIND = {
    "invalid_request": 400,
    "deadline_exceeded": 504,
    INVALID_KEY: 400,
    "ModelNotFoundException": 404,
    "ModelVersionNotFoundException": 404,
}
"""HTTP's status of errors that also arrive without a status, such as over gRPC."""


class ServiceError(RuntimeError):
    """The server refused a request or failed.

    Attributes:
        status: HTTP's status. 0: there is no answer of the server.
        kind: The error's type.
        message: The server's own message.
        problems: Every wrong field as {"field", "expected", "got"}. Empty if the request was not the cause.
    """

    def __init__(self, status: int, kind: str, message: str, problems: list[dict[str, Any]] | None = None):
        self.status = status
        self.kind = kind
        self.message = message
        self.problems = problems or []
        details = (f"\n  {each['field']}: expected {each['expected']}, got {each['got']!r}" for each in self.problems)
        super().__init__(f"{f'{status} ' if status else ''}{kind}: {message}{''.join(details)}")


class ServiceTimeout(ServiceError):  # noqa: N818 - named for what happened, as InvalidInput is
    """No answer within the limit. The server may go on: it does not learn that nobody waits. `status` is 0."""

    def __init__(self, address: str, seconds: float):
        super().__init__(0, "timeout", f"no answer from {address} within {seconds:g} s")


class ServiceUnreachable(ServiceError):  # noqa: N818
    """No connection, or one that broke before the answer was complete. `status` is 0."""

    def __init__(self, address: str, reason: object):
        super().__init__(0, "unreachable", f"{address}: {reason}")


@dataclass(frozen=True)
class Reply:
    """An answer unchanged. Over gRPC it has no headers."""

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The decoded body. Raises ServiceError if it is not JSON."""
        return decode(self.content)


@dataclass(frozen=True)
class Result:
    """The pictures of one request, and the report of what was computed.

    Attributes:
        image_bytes: The first picture, encoded.
        report: The report, see docs/interface.md.
        seed: Seed of the first picture. Picture i has `seed` + i.
        headers: Of the answer. Empty over gRPC.
        other_bytes: The other pictures, for `num_images` over 1.
        warnings: What the server warns of.
    """

    image_bytes: bytes
    report: dict[str, Any]
    seed: int
    headers: Mapping[str, str]
    other_bytes: tuple[bytes, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_document(cls, document: Any, headers: Mapping[str, str] | None = None) -> Self:
        """The result in a JSON answer or in the last event of a stream. Raises ServiceError for anything else."""
        try:
            first, *others = [base64.b64decode(each["b64_json"]) for each in document["data"]]
            seed, report, warnings = document["data"][0]["seed"], document["report"], document["warnings"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unexpected(f"the answer has no picture with a report ({error!r})") from None
        is_whole = type(seed) is int and isinstance(report, dict) and isinstance(warnings, list)
        if not is_whole or not all(isinstance(each, str) for each in warnings):
            raise unexpected("the answer has a picture, but not its seed, its report and a list of warnings")
        return cls(first, report, seed, headers or {}, tuple(others), tuple(warnings))

    @property
    def image(self) -> Image.Image:
        return self.images[0]

    @property
    def images(self) -> list[Image.Image]:
        """All pictures in the order of their seeds. Raises ServiceError if the server sent something else."""
        try:
            return [Image.open(io.BytesIO(content)) for content in (self.image_bytes, *self.other_bytes)]
        except (OSError, ValueError, Image.DecompressionBombError):
            raise unexpected("the answer has something else in the place of a picture") from None


def decode(content: bytes) -> Any:
    """JSON from a server. Raises ServiceError if it is something else."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise unexpected(f"the answer is not JSON: {content[:80]!r}") from None


def object_of(document: Any) -> dict[str, Any]:
    """A decoded answer that is an object. Raises ServiceError if it is not."""
    if not isinstance(document, dict):
        raise unexpected(f"the answer is no object: {_short(document)}")
    return document


def text_of(document: Any, key: str) -> str:
    """The text at a key of a decoded answer. Raises ServiceError if there is none."""
    text = object_of(document).get(key)
    if not isinstance(text, str):
        raise unexpected(f"the answer has no text {key!r}: {_short(document)}")
    return text


def models_of(document: Any) -> list[dict[str, Any]]:
    """The models in TorchServe's list of them. Raises ServiceError if it is something else."""
    models = object_of(document).get("models")
    if not isinstance(models, list) or not all(isinstance(each, dict) for each in models):
        raise unexpected(f"the answer has no list of models: {_short(document)}")
    for each in models:
        text_of(each, "modelName")
    return models


def versions_of(document: Any) -> list[dict[str, Any]]:
    """TorchServe's description of at least one version. Raises ServiceError if it is something else."""
    if not isinstance(document, list) or not document or not all(_is_version(each) for each in document):
        raise unexpected(f"the answer describes no versions of a model: {_short(document)}")
    return document


def _is_version(described: Any) -> bool:
    if not isinstance(described, dict):
        return False
    workers, queue = described.get("workers"), described.get("jobQueueStatus")
    return (
        isinstance(described.get("modelVersion"), str)
        and type(described.get("minWorkers")) is int
        and isinstance(workers, list)
        and all(isinstance(each, dict) and type(each.get("pid")) is int and "status" in each for each in workers)
        and isinstance(queue, dict)
        and type(queue.get("pendingRequests")) is int
    )


def error_from(document: Any, status: int | None = None, message: str = "") -> ServiceError:
    """The error in a decoded answer. This project's has the form of docs/interface.md, TorchServe's a type and message.

    Args:
        document: The decoded answer.
        status: HTTP's status. None: the usual one of the error's kind.
        message: The message of an answer without one.
    """
    document = document if isinstance(document, dict) else {}
    error = document.get("error", document)
    error = error if isinstance(error, dict) else {}
    kind, words, problems = error.get("type"), error.get("message"), error.get("problems")
    kind = kind if isinstance(kind, str) else "server_error"
    words = words if isinstance(words, str) and words else message
    named = [each for each in problems if isinstance(each, dict)] if isinstance(problems, list) else []
    known = [{"field": None, "expected": None, "got": None, **each} for each in named]
    return ServiceError(status or STATUS_OF_KIND.get(kind, 500), kind, words, known)


def unexpected(message: str) -> ServiceError:
    """The error for an answer that this client cannot read."""
    return ServiceError(0, "unexpected_answer", message)


def _short(document: Any) -> str:
    text = repr(document)
    return text if len(text) <= 80 else text[:77] + "..."
