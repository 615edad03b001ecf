"""What a transport does for the client, and what both of them need for it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Protocol

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.client.replies import Reply

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that no proxy of the environment can reach for us."""


MOST_MODELS = 1000
"""As many as TorchServe lists at once."""


class Transport(Protocol):
    """One way to a server. `model` may name a version, "hybridstitch/1.0"; `payload` is what JSON can hold.

    Every call raises ServiceError for an error answer, ServiceTimeout and ServiceUnreachable for none, and those
    from `describe` on InvalidInput without an address for management. `timeout` is in seconds.
    """

    closes: bool
    """Whether `scale` can take all workers of a model away, which closes it for new requests."""

    def predict(self, model: str, payload: Any) -> Reply: ...
    def explain(self, model: str, payload: Any, timeout: float) -> Reply: ...
    def stream(self, model: str, payload: Any) -> Iterator[dict[str, Any]]: ...
    def status(self) -> str: ...
    def describe(self, model: str, customized: bool, timeout: float | None = None) -> list[dict[str, Any]]: ...
    def models(self) -> list[dict[str, Any]]: ...
    def register(self, fields: dict[str, Any], timeout: float) -> None: ...
    def unregister(self, model: str) -> None: ...
    def scale(self, model: str, workers: int, timeout: float) -> None: ...
    def set_default(self, model: str) -> None: ...
    def close(self) -> None: ...


def encode(payload: Any) -> bytes:
    """The body of a request. Raises InvalidInput if JSON cannot hold the payload."""
    try:
        return json.dumps(payload, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput([Problem("payload", "values that JSON can hold", str(error))]) from error


def request_start() -> str:
    """Now, in the form that proxies use for this header: seconds since 1970 after "t="."""
    return f"t={time.time():.6f}"


def no_management() -> InvalidInput:
    """The error of a call that needs the address for management."""
    return InvalidInput([Problem("management_url", "the server's management address", None)])
