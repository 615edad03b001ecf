"""One request as a server passes it to a worker, before its fields are checked."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybridstitch.wire.documents import Response
from hybridstitch.wire.names import REQUEST_ID, REQUEST_START

OLDEST_SECONDS = 86400  # an earlier start, or one in the future, comes from a wrong clock


@dataclass(frozen=True)
class Row:
    """One request. A server's adapter makes it, and nothing that a client sends makes that fail.

    Attributes:
        values: Its values by key: a body under `body`, the fields of a form under their names.
        headers: Its headers by lower-case name.
        send_piece: Sends a part of a streamed answer at once. Never called unless `is_http`.
        types: Content types of its values by key, where the client sends them.
        path: What follows the model and its version in the URL, without slashes at its ends; usually empty.
        is_http: Whether it came over HTTP, which can stream. Otherwise its values are the input of a gRPC call.
        is_explanation: Whether it came by the route of explanations.
        name: The server's own name for it, for the log.
        arrived: Seconds since 1970 when the worker got it.
    """

    values: Mapping[str, Any]
    headers: Mapping[str, str]
    send_piece: Callable[[Response], None]
    types: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    is_http: bool = True
    is_explanation: bool = False
    name: str = ""
    arrived: float = field(default_factory=time.time)

    @property
    def request_id(self) -> str | None:
        """The caller's `X-Request-Id`; None for one that a header cannot echo."""
        return valid_id(self.headers.get("x-request-id"))

    @property
    def queued(self) -> float | None:
        """Seconds from the client's start to the worker's; None if it sends none or its clock is wrong."""
        number = re.fullmatch(r"(?:t=)?(\d{9,16}(?:\.\d{1,9})?)", self.headers.get(REQUEST_START, "").strip())
        if number is None:
            return None
        sent = float(number[1])
        while sent > 1e11:  # milliseconds or microseconds
            sent /= 1000
        return self.arrived - sent if self.arrived - OLDEST_SECONDS < sent <= self.arrived else None

    @property
    def sent_at(self) -> float:
        """Seconds since 1970 of the client's start, or of the worker's if the client does not send it."""
        return self.arrived - (self.queued or 0)


def valid_id(given: Any) -> str | None:
    """Return a caller's request id; None for one that a header cannot echo."""
    return given if isinstance(given, str) and re.fullmatch(REQUEST_ID, given) else None
