"""Reading the body of an HTTP answer within a limit: what has arrived by then, or an error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer

import requests

CHUNK = 2**16
MAX_BYTES = 2**27
"""An answer that is longer is refused: no server of this project sends one."""


class LateBodyError(Exception):
    """The limit passed before the body, or the next line of it, was whole."""


def read_body(response: requests.Response, deadline: float) -> bytes:
    """The whole body. Raises LateBodyError at `deadline` (of time.monotonic()), OSError for one that is too long."""
    body = bytearray()
    with _until(response, deadline):
        while piece := _piece(response, deadline, len(body)):
            body += piece
    return bytes(body)


def read_lines(response: requests.Response, seconds: float) -> Iterator[bytes]:
    """The lines of a body as they come. `seconds` is the limit for each line; errors as of `read_body`."""
    rest = bytearray()
    while True:
        deadline = time.monotonic() + seconds
        with _until(response, deadline):
            while b"\n" not in rest and (piece := _piece(response, deadline, len(rest))):
                rest += piece
        if not rest:
            return
        line, _, rest = rest.partition(b"\n")
        yield bytes(line)


def _piece(response: requests.Response, deadline: float, length: int) -> bytes:
    """What arrived next, b"" at the end. A server that sends drop by drop does not pass the deadline."""
    if time.monotonic() >= deadline:
        raise LateBodyError
    if length > MAX_BYTES:
        raise OSError(f"the answer is longer than {MAX_BYTES} bytes")
    return response.raw.read1(CHUNK, decode_content=True)


@contextmanager
def _until(response: requests.Response, deadline: float) -> Iterator[None]:
    """End a read that is still waiting at the deadline: each read of a socket has the whole limit for itself."""
    watch = Timer(max(0.0, deadline - time.monotonic()), _end_reading, [response])
    watch.daemon = True
    watch.start()
    try:
        yield
        is_late = time.monotonic() >= deadline
    except Exception:
        if time.monotonic() < deadline:
            raise
        is_late = True
    finally:
        watch.cancel()
    if is_late:
        raise LateBodyError


def _end_reading(response: requests.Response) -> None:
    with suppress(ValueError, RuntimeError, OSError):  # it has ended by itself
        response.raw.shutdown()
