"""The client's way over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.answers import (
    Reply,
    ServiceError,
    ServiceTimeout,
    ServiceUnreachable,
    decode,
    error_from,
    unexpected,
)
from hybridstitch.serving.tokens import Token
from hybridstitch.serving.transport import LOOPBACK, MOST_MODELS, REQUEST_START, encode, no_management, request_start

CONNECT_SECONDS = 10.0
"""The longest wait for a connection; waiting for the answer has the client's own limit."""

KEPT_CONNECTIONS = 64
"""As many as threads may use one client at a time without connecting anew."""


class Site:
    """One address of a server with its token. `timeout` is in seconds, for each wait for bytes of an answer."""

    def __init__(self, name: str, url: str, token: Token, timeout: float):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInput([Problem(name, "http://HOST:PORT or https://HOST:PORT", url)])
        self._url = url.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._session = requests.Session()
        self._session.mount(f"{parts.scheme}://", HTTPAdapter(pool_maxsize=KEPT_CONNECTIONS))
        self._session.trust_env = parts.hostname not in LOOPBACK

    def call(self, method: str, path: str, *, timeout: float | None = None, **options: Any) -> requests.Response:
        """A good answer; every other is raised."""
        seconds = timeout or self._timeout
        return self._token.use(lambda token: self._send(method, path, token, seconds, options))

    def post(self, path: str, payload: Any, **options: Any) -> requests.Response:
        """A good answer to a request in JSON."""
        headers = {"Content-Type": "application/json", REQUEST_START: request_start()}
        return self.call("POST", path, data=encode(payload), headers=headers, **options)

    def close(self) -> None:
        self._session.close()

    @contextmanager
    def no_answer_raised(self, seconds: float | None = None) -> Iterator[None]:
        """What goes wrong on the line, as the errors of this package."""
        try:
            yield
        except requests.RequestException as error:
            # A limit that passes in the middle of a body comes as a broken connection.
            is_late = isinstance(error, requests.Timeout) or isinstance(next(iter(error.args), None), ReadTimeoutError)
            if is_late:
                raise ServiceTimeout(self._url, seconds or self._timeout) from error
            raise ServiceUnreachable(self._url, error) from error

    def _send(
        self, method: str, path: str, token: str | None, seconds: float, options: dict[str, Any]
    ) -> requests.Response:
        headers = options.get("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        limits = (min(CONNECT_SECONDS, seconds), seconds)
        with self.no_answer_raised(seconds):
            response = self._session.request(
                method, self._url + quote(path), timeout=limits, **{**options, "headers": headers}
            )
            if not response.ok:
                with response:
                    raise _error_of(response)
        return response


class HttpTransport:
    """Predictions at one address, and management at another if there is one."""

    closes = True

    def __init__(self, inference: Site, management: Site | None):
        self._inference = inference
        self._management = management

    def predict(self, model: str, payload: Any) -> Reply:
        return _reply(self._inference.post(f"/predictions/{model}", payload))

    def explain(self, model: str, payload: Any) -> Reply:
        return _reply(self._inference.post(f"/explanations/{model}", payload))

    def stream(self, model: str, payload: Any) -> Iterator[dict[str, Any]]:
        with self._inference.post(f"/predictions/{model}", payload, stream=True) as response:
            with self._inference.no_answer_raised():
                # None: every chunk as soon as it is there.
                for line in response.iter_lines(chunk_size=None):
                    event = _event(line)
                    yield event
                    if event["event"] == "result":
                        return
            raise ServiceUnreachable(response.url, "the stream ended before its result")

    def status(self) -> str:
        return decode(self._inference.call("GET", "/ping").content)["status"]

    def describe(self, model: str, customized: bool, timeout: float | None = None) -> list[dict[str, Any]]:
        query = {"customized": "true"} if customized else None
        return decode(self._manage("GET", f"/models/{model}", params=query, timeout=timeout).content)

    def models(self) -> list[dict[str, Any]]:
        return decode(self._manage("GET", "/models", params={"limit": MOST_MODELS}).content)["models"]

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

    def _manage(self, method: str, path: str, **options: Any) -> requests.Response:
        if self._management is None:
            raise no_management()
        return self._management.call(method, path, **options)


def _reply(response: requests.Response) -> Reply:
    return Reply(response.content, response.headers)


def _event(line: bytes) -> dict[str, Any]:
    """One line of a stream. Raises ServiceError for the event "error"."""
    event = decode(line)
    if not isinstance(event, dict) or "event" not in event:
        raise unexpected(f"the answer is not a stream of events: {line[:80]!r}")
    if event["event"] == "error":
        raise error_from(event)
    return event


def _error_of(response: requests.Response) -> ServiceError:
    try:
        document = response.json()
    except ValueError:
        document = None
    return error_from(document, response.status_code, response.text[:500] or response.reason)
