"""What Ray's front sends to a worker, and what it gets back: plain values, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BEGUN, PART, LAST = "begun", "part", "last"
"""The stages of an answer: the worker begins with it, sends a part of a stream, ends it."""


@dataclass(frozen=True)
class Request:
    """One request over HTTP, as `hybridstitch.serving.worker.row.Row` describes it.

    Attributes:
        values: A body under `body`, the fields of a form under their names.
        headers: By lower-case name.
        types: Content types of the parts of a form.
        path: What follows the model in the URL, without slashes at its ends.
        is_explanation: Whether it came by the route of explanations.
        name: Ray's own name for it, for the log.
    """

    values: Mapping[str, Any]
    headers: Mapping[str, str]
    types: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    is_explanation: bool = False
    name: str = ""


@dataclass(frozen=True)
class Piece:
    """A piece of an answer.

    Attributes:
        stage: `BEGUN`, `PART` or `LAST`.
        body: The bytes of this piece.
        content_type: Of the answer.
        headers: The other headers of the answer.
        status: HTTP's status.
    """

    stage: str
    body: bytes = b""
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class Count:
    """A value for a metric: see `hybridstitch.serving.worker.metrics.Counter`."""

    name: str
    value: float
    labels: tuple[str, ...]
