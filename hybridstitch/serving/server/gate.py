"""A port that opens when the server behind it is ready."""

from __future__ import annotations

import socket
import socketserver
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Self

from hybridstitch.errors import InvalidInput, Problem

CHUNK_BYTES = 2**16


class Gate:
    """Passes every connection at an address on to a port of this machine. Use it as a context manager.

    TorchServe listens, and reports itself healthy, before its first worker is ready. Where a platform sends requests
    to whoever is healthy, the gate stays closed until then. It reads and changes nothing of what it passes on.
    """

    def __init__(self, host: str, port: int, target: tuple[str, int]):
        """
        Args:
            host, port: Where to listen. Port 0 is a free one.
            target: Address of the server behind the gate.

        Raises:
            InvalidInput: For an address at which nothing can listen.
        """
        try:
            self._server = _Server((host, port), _Passage)
        except (OSError, OverflowError) as error:
            raise InvalidInput([Problem("port", f"a free one at {host} ({error})", port)]) from None
        self._server.target = target

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return self._server.server_address[1]

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    target: tuple[str, int]


class _Passage(socketserver.BaseRequestHandler):
    server: _Server
    request: socket.socket

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection(self.server.target) as inner:
            back = Thread(target=_pass, args=(inner, self.request), daemon=True)
            back.start()
            _pass(self.request, inner)
            back.join()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes until the source ends, then end the sink."""
    with suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
