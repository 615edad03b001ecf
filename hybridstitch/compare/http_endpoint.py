"""An endpoint over HTTP: asked with a deadline, read with a limit, timed from the request to the last byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from hybridstitch.compare.endpoints import NO_FIELDS, Answer, Spec
from hybridstitch.compare.shapes import ANY, SHAPES, Shape, UnreadableAnswerError
from hybridstitch.serving.response import HEADER_PREFIX

MAX_BYTES = 2**27
"""An answer that is longer is a failure."""
MAX_ERROR = 300
"""Characters that are kept of an error."""
CHUNK = 2**16
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class HttpEndpoint:
    """Asks a server. Where no kind was named, the first answer says whether it is one of ours, which then reports."""

    def __init__(self, spec: Spec, token: str | None, timeout: float):
        self.spec, self._token, self._timeout = spec, token, timeout
        kind = spec.kind
        if kind == "auto" and urlsplit(spec.target).path.endswith("/images/generations"):
            kind = "openai"
        self.kind = kind
        self._shape: Shape = SHAPES.get(kind, ANY)
        self._local = threading.local()

    def ask(self, prompt: str, seed: int, fields: Mapping[str, Any] = NO_FIELDS) -> Answer:
        """Send one request and read the picture in its answer."""
        sent = {**fields, **self.spec.fields}
        arguments = self._shape.request(prompt, seed if self.spec.sends_seed else None, sent)
        started = time.perf_counter()
        try:
            status, headers, body = self._exchange(arguments, started + self._timeout)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            seconds = time.perf_counter() - started
            return Answer(seconds, error=self._words(f"{type(error).__name__}: {error}"))
        seconds = time.perf_counter() - started
        if status != 200:
            return Answer(seconds, error=self._words(f"{status}: {body[: 4 * MAX_ERROR].decode(errors='replace')}"))
        try:
            picture = self._shape.read(body)
        except UnreadableAnswerError as error:
            return Answer(seconds, error=self._words(f"unreadable answer: {error}"))
        if self.kind == "auto" and any(name.lower().startswith(HEADER_PREFIX) for name in headers):
            self.kind, self._shape = "hybridstitch", SHAPES["hybridstitch"]
        return Answer(seconds, picture.data, picture.extension, picture.report)

    def describe(self) -> dict[str, Any]:
        """Its kind, as named or recognised."""
        return {"kind": self.kind, "sends_seed": self.spec.sends_seed}

    def _exchange(self, arguments: dict[str, Any], deadline: float) -> tuple[int, Any, bytes]:
        with self._session().post(
            self.spec.target,
            **arguments,
            timeout=self._timeout,
            stream=True,
            allow_redirects=False,  # the token is for this address alone
        ) as response:
            body = bytearray()
            # What has arrived, not so many bytes: a server that sends drop by drop must not outlast the deadline.
            while chunk := response.raw.read1(CHUNK, decode_content=True):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise OSError(f"the answer is longer than {MAX_BYTES} bytes")
                if time.perf_counter() > deadline:
                    raise TimeoutError(f"no whole answer in {self._timeout:g} s")
            return response.status_code, response.headers, bytes(body)

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
        return request

    def _words(self, text: str) -> str:
        """An error to be kept: short, and without the token, should a server echo it."""
        if self._token:
            text = text.replace(self._token, "[token]")
        return " ".join(text.split())[:MAX_ERROR]
