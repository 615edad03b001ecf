"""The transport over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Timeout

from hybridstitch.serving.client.address import Address
from hybridstitch.serving.client.auth import Credential, without
from hybridstitch.serving.client.http_body import LateBodyError, read_body, read_lines
from hybridstitch.serving.client.replies import (
    Reply,
    ServiceError,
    ServiceTimeout,
    ServiceUnreachable,
    decode,
    error_from,
    models_of,
    text_of,
    unexpected,
    versions_of,
)
from hybridstitch.serving.client.transport import LOOPBACK, MOST_MODELS, encode, no_management, request_start
from hybridstitch.wire.names import REQUEST_START

CONNECT_SECONDS = 10.0
"""The longest wait for a connection. The client's timeout limits the whole call."""

LEAST_SECONDS = 0.001
"""The limit of a socket after the deadline: it takes no 0."""

KEPT_CONNECTIONS = 64
"""The number of threads that can use one client at a time without a new connection."""


class Site:
    """One address of a server with its credential. `timeout` is in seconds, for a whole call."""

    def __init__(self, address: Address, credential: Credential, timeout: float):
        self._url = address.base
        self._credential = credential
        self._timeout = timeout
        self._session = requests.Session()
        self._session.mount(f"{address.scheme}://", HTTPAdapter(pool_maxsize=KEPT_CONNECTIONS))
        self._session.trust_env = address.host not in LOOPBACK

    def call(self, method: str, path: str, *, timeout: float | None = None, **options: Any) -> Reply:
        """The complete answer of a call. Raises ServiceError for an error answer, and for none."""
        seconds = timeout or self._timeout
        deadline = time.monotonic() + seconds
        with self._no_answer_raised(seconds):
            response = self._credential.use(lambda token: self._send(method, path, token, deadline, options))
            with response:
                return Reply(read_body(response, deadline), response.headers)

    def post(self, path: str, payload: Any, timeout: float | None = None) -> Reply:
        """The complete answer to a request in JSON, see `call`."""
        return self.call("POST", path, timeout=timeout, **_json(payload))

    def lines(self, path: str, payload: Any) -> Iterator[bytes]:
        """The lines of the answer to a request in JSON as they arrive. The timeout limits each of them."""
        deadline = time.monotonic() + self._timeout
        with self._no_answer_raised(self._timeout):
            options = _json(payload)
            response = self._credential.use(lambda token: self._send("POST", path, token, deadline, options))
            with response:
                yield from read_lines(response, self._timeout)
        raise ServiceUnreachable(self._url, "the stream ended before its result")

    def close(self) -> None:
        self._session.close()

    @contextmanager
    def _no_answer_raised(self, seconds: float) -> Iterator[None]:
        """Raise errors of the connection as ServiceTimeout or ServiceUnreachable."""
        failed: ServiceError
        try:
            yield
            return
        except (LateBodyError, requests.Timeout, ReadTimeoutError):
            failed = ServiceTimeout(self._url, seconds)
        except (requests.RequestException, HTTPError, OSError) as error:
            failed = ServiceUnreachable(self._url, root(error))
        raise failed from None

    def _send(
        self, method: str, path: str, token: str | None, deadline: float, options: dict[str, Any]
    ) -> requests.Response:
        left = max(LEAST_SECONDS, deadline - time.monotonic())
        limits: Any = Timeout(connect=min(CONNECT_SECONDS, left), read=left, total=left)
        response = self._session.request(
            method,
            self._url + quote(path),
            timeout=limits,
            stream=True,
            allow_redirects=False,  # the token is for this address alone
            auth=_Bearer(token),
            **options,
        )
        if response.status_code // 100 != 2:
            with response:
                raise _error_of(response, without(token, read_body(response, deadline)))
        return response


class _Bearer(AuthBase):
    """Sends the token as a header. A header of the session would be replaced by a .netrc file."""

    def __init__(self, token: str | None):
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class HttpTransport:
    """Predictions at one address, and management at another one if it is given."""

    closes = True

    def __init__(self, inference: Site, management: Site | None):
        self._inference = inference
        self._management = management

    def predict(self, model: str, payload: Any) -> Reply:
        return self._inference.post(f"/predictions/{model}", payload)

    def explain(self, model: str, payload: Any, timeout: float) -> Reply:
        return self._inference.post(f"/explanations/{model}", payload, timeout)

    def stream(self, model: str, payload: Any) -> Iterator[dict[str, Any]]:
        for line in self._inference.lines(f"/predictions/{model}", payload):
            event = _event(line)
            yield event
            if event["event"] == "result":
                return

    def status(self) -> str:
        return text_of(decode(self._inference.call("GET", "/ping").content), "status")

    def describe(self, model: str, customized: bool, timeout: float | None = None) -> list[dict[str, Any]]:
        query = {"customized": "true"} if customized else None
        return versions_of(decode(self._manage("GET", f"/models/{model}", params=query, timeout=timeout).content))

    def models(self) -> list[dict[str, Any]]:
        return models_of(decode(self._manage("GET", "/models", params={"limit": MOST_MODELS}).content))

    def register(self, fields: dict[str, Any], timeout: float) -> None:
        self._manage("POST", "/models", params={**fields, "synchronous": "true"}, timeout=timeout)

    def unregister(self, model: str) -> None:
        self._manage("DELETE", f"/models/{model}")

    def scale(self, model: str, workers: int, timeout: float) -> None:
        query = {"min_worker": workers, "max_worker": workers, "synchronous": "true"}
        self._manage("PUT", f"/models/{model}", params=query, timeout=timeout)

    def set_default(self, model: str) -> None:
        self._manage("PUT", f"/models/{model}/set-default")

    def close(self) -> None:
        self._inference.close()
        if self._management:
            self._management.close()

    def _manage(self, method: str, path: str, **options: Any) -> Reply:
        if self._management is None:
            raise no_management()
        return self._management.call(method, path, **options)


def _json(payload: Any) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", REQUEST_START: request_start()}
    return {"data": encode(payload), "headers": headers}


def _event(line: bytes) -> dict[str, Any]:
    """One line of a stream. Raises ServiceError for the event "error"."""
    event = decode(line)
    if not isinstance(event, dict) or "event" not in event:
        raise unexpected(f"the answer is not a stream of events: {line[:80]!r}")
    if event["event"] == "error":
        raise error_from(event)
    return event


def _error_of(response: requests.Response, body: bytes) -> ServiceError:
    try:
        document = decode(body)
    except ServiceError:
        document = None
    words = body[:500].decode(errors="replace") or response.reason or "no text"
    return error_from(document, response.status_code, words)


def root(error: BaseException) -> str:
    """The message of the innermost error of a chain."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error) or type(error).__name__
