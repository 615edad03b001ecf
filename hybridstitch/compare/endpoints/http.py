"""An endpoint over HTTP: requests with a deadline, bodies with a limit, timed from the request to the last byte."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus, urljoin, urlsplit

import requests
import urllib3

from hybridstitch.compare.endpoints.formats import ANY, PATHS, SHAPES, Shape, UnreadableAnswerError, checked, linked
from hybridstitch.compare.endpoints.spec import NO_FIELDS, NO_HEADERS, UNREACHABLE, Answer, Spec
from hybridstitch.serving.client.http import CONNECT_SECONDS, LEAST_SECONDS, root
from hybridstitch.serving.client.http_body import LateBodyError, read_body
from hybridstitch.serving.client.transport import LOOPBACK
from hybridstitch.wire.names import HEADER_PREFIX

MAX_ERROR = 300
"""Characters that are kept of an error."""
SHORTEST_SECRET = 4
"""Shorter values are not hidden: a value such as `2` is no secret, and hiding it would hide numbers in errors."""


class RefusedError(Exception):
    """An answer with another status than 200; the text has the status and the body."""


class HttpEndpoint:
    """Sends requests to a server. Without a named kind, the first answer shows whether the server is one of ours."""

    def __init__(self, spec: Spec, token: str | None, timeout: float, headers: Mapping[str, str] = NO_HEADERS):
        self.spec, self._token, self._timeout, self._headers = spec, token, timeout, headers
        kind = spec.kind
        if kind == "auto":
            path = urlsplit(spec.target).path
            kind = next((shown for pattern, shown in PATHS.items() if re.search(pattern, path)), kind)
        self.kind = kind
        self._shape: Shape = SHAPES.get(kind, ANY)
        self._local = threading.local()

    def ask(self, prompt: str, seed: int, fields: Mapping[str, Any] = NO_FIELDS) -> Answer:
        """Send one request and read the picture in its answer, or at the address of this server that it names."""
        arguments = self._shape.request(prompt, seed if self.spec.sends_seed else None, {**fields, **self.spec.fields})
        for name in self.spec.left_out:
            arguments.get("json", {}).pop(name, None)
        started = time.perf_counter()
        deadline = time.monotonic() + self._timeout
        try:
            headers, body = self._exchange("POST", self.spec.target, deadline, arguments)
            ended = time.perf_counter()
            try:
                picture = self._shape.read(body)
            except UnreadableAnswerError:
                found = self._followed(body, deadline)
                if found is None:
                    raise
                ended = time.perf_counter()
                picture = checked(found)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            return self._failure(started, _broken(error))
        except RefusedError as error:
            return self._failure(started, str(error))
        except UnreadableAnswerError as error:
            return self._failure(started, f"unreadable answer: {error}")
        ours = any(name.lower().startswith(HEADER_PREFIX) for name in headers)
        if self.kind == "auto" and ours and "response_format" not in self.spec.left_out:
            self.kind, self._shape = "hybridstitch", SHAPES["hybridstitch"]
        return Answer(ended - started, picture.data, picture.extension, picture.report)

    def describe(self) -> dict[str, Any]:
        """Return the kind, named or recognised, the names of the sent headers, and whether a token is sent."""
        return {
            "kind": self.kind,
            "sends_seed": self.spec.sends_seed,
            "headers": sorted(self._headers),
            "token": bool(self._token),
        }

    def _failure(self, started: float, error: str) -> Answer:
        return Answer(time.perf_counter() - started, error=self._words(error))

    def _followed(self, body: bytes, deadline: float) -> bytes | None:
        """Return the bytes at the address that an answer has instead of a picture; None if it has no address."""
        address = linked(body) if self._shape.links else None
        if address is None:
            return None
        if _origin(self.spec.target, address) != _origin(self.spec.target):
            # The token and the headers are for this server alone.
            raise UnreadableAnswerError(f"its picture lies at another server, which is not asked: {address[:200]}")
        return self._exchange("GET", urljoin(self.spec.target, address), deadline)[1]

    def _exchange(
        self, method: str, address: str, deadline: float, arguments: Mapping[str, Any] = NO_FIELDS
    ) -> tuple[Mapping[str, str], bytes]:
        """Return headers and body of an answer. Raises RefusedError if its status is not 200."""
        left = max(LEAST_SECONDS, deadline - time.monotonic())
        with self._session().request(
            method,
            address,
            **arguments,
            timeout=(min(CONNECT_SECONDS, left), left),
            stream=True,
            allow_redirects=False,  # the token is for this address alone
        ) as response:
            try:
                body = read_body(response, deadline)
            except LateBodyError:
                raise TimeoutError(f"no whole answer in {self._timeout:g} s") from None
            if response.status_code != 200:
                raise RefusedError(f"{response.status_code}: {body[: 4 * MAX_ERROR].decode(errors='replace')}")
            return response.headers, body

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            session = self._local.session = requests.Session()
            # A proxy of the environment cannot reach a server on this machine.
            session.trust_env = urlsplit(self.spec.target).hostname not in LOOPBACK
            session.auth = self._authorise  # not a header: a .netrc file would replace that
        return self._local.session

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        request.headers.update(self._headers)
        return request

    def _words(self, text: str) -> str:
        """Return an error for the report: short, without token, header values and query, which a server may echo."""
        query = urlsplit(self.spec.target).query
        values = [part.rpartition("=")[2] for part in query.split("&")]
        in_query = [query, *values, *map(unquote_plus, values)]
        for secret in filter(None, (self._token, *self._headers.values(), *in_query)):
            text = text.replace(secret, "[hidden]") if len(secret) >= SHORTEST_SECRET else text
        text = " ".join(text.split())
        return text if len(text) <= MAX_ERROR else text[: MAX_ERROR - 1] + "…"


def _broken(error: BaseException) -> str:
    """Return the root error of a connection. The errors around it repeat the address."""
    kind = UNREACHABLE if isinstance(error, requests.ConnectionError) else type(error).__name__
    return f"{kind}: {root(error)}"


def _origin(base: str, address: str = "") -> tuple[str, str | None, int | None] | None:
    """Scheme, host and port of an address that may be relative to another; None if it cannot be read."""
    try:
        parts = urlsplit(urljoin(base, address))
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
