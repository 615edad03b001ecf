"""Reads the body of an HTTP answer within a limit of time and of length."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer

import requests

CHUNK = 2**16
MAX_BYTES = 2**27
"""A longer answer is refused: no server of this project sends one."""


class LateBodyError(Exception):
    """The body, or the next line of it, was not whole within the limit."""


def read_body(response: requests.Response, deadline: float) -> bytes:
    """The whole body.

    Args:
        response: An answer whose body has not been read.
        deadline: When reading ends, on the clock of `time.monotonic()`.

    Raises:
        LateBodyError: At the deadline.
        OSError: For a body that is longer than `MAX_BYTES`, and for a connection that breaks.
    """
    body = bytearray()
    with _until(response, deadline):
        while piece := _piece(response, deadline, len(body)):
            body += piece
    return bytes(body)


def read_lines(response: requests.Response, seconds: float) -> Iterator[bytes]:
    """The lines of a body as they arrive, without their ends.

    Args:
        response: An answer whose body has not been read.
        seconds: The limit for each line.

    Raises:
        LateBodyError, OSError: As `read_body`, for each line.
    """
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
    """The bytes that arrive next, b"" at the end. A server that sends byte by byte cannot pass the deadline."""
    if time.monotonic() >= deadline:
        raise LateBodyError
    if length > MAX_BYTES:
        raise OSError(f"the answer is longer than {MAX_BYTES} bytes")
    return response.raw.read1(CHUNK, decode_content=True)


@contextmanager
def _until(response: requests.Response, deadline: float) -> Iterator[None]:
    """Ends a read that still waits at the deadline. The socket's own limit starts over with each read."""
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
