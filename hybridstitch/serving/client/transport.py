"""The calls of a transport, and what HTTP and gRPC share."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Protocol

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.client.replies import Reply

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts of this machine, which no proxy of the environment can reach."""

MOST_MODELS = 1000
"""The most models that TorchServe lists at once."""


class Transport(Protocol):
    """One way to a server.

    `model` may name a version, "hybridstitch/1.0". `payload` holds what JSON can hold. `timeout` is in seconds.

    Raises:
        ServiceError: For an error answer. Its kinds ServiceTimeout and ServiceUnreachable: there was no answer.
        InvalidInput: By `describe` and the calls after it, without an address for management.
    """

    closes: bool
    """Whether `scale` can set no workers, which closes a model for new requests."""

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
    """The current time in the form that proxies use: "t=" and the seconds since 1970."""
    return f"t={time.time():.6f}"


def no_management() -> InvalidInput:
    """The error of a call that needs a management address."""
    return InvalidInput([Problem("management_url", "the server's management address", None)])
