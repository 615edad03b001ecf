"""The port that opens when the server behind it is ready: it passes on every byte and ends with either side."""

from __future__ import annotations

import socket
import socketserver
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread

import pytest

from hybridstitch.errors import InvalidInput
from hybridstitch.serving.server.gate import Gate

LARGE = bytes(range(256)) * 20_000


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets until the other side ends. A first byte of zero ends the connection at once."""

    def handle(self) -> None:
        while data := self.request.recv(2**16):
            if data[0] == 0 and len(data) == 1:
                return
            self.request.sendall(data)


@contextmanager
def echoing() -> Iterator[tuple[str, int]]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address
        server.shutdown()


@pytest.fixture
def gate() -> Iterator[Gate]:
    with echoing() as target, Gate("127.0.0.1", 0, target) as opened:
        yield opened


def exchange(port: int, data: bytes) -> bytes:
    """What comes back when the data is sent and the sending side is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        sending = Thread(target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR)))
        sending.start()
        received = bytearray()
        while piece := connection.recv(2**16):
            received += piece
        sending.join()
    return bytes(received)


def test_large_answers_pass_unchanged_on_many_connections(gate: Gate) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda number: exchange(gate.port, LARGE + b"%d" % number)[:-1], range(10))) == {LARGE}


def test_a_connection_ends_with_the_server_side(gate: Gate) -> None:
    with socket.create_connection(("127.0.0.1", gate.port), timeout=30) as connection:
        connection.sendall(b"\0")
        assert connection.recv(1) == b""


def test_a_server_that_is_gone_ends_connections_and_not_the_gate() -> None:
    with echoing() as target:
        pass
    with Gate("127.0.0.1", 0, target) as gate:
        for _ in range(2):
            assert exchange(gate.port, b"") == b""


def test_it_is_closed_afterwards_and_takes_no_taken_port() -> None:
    with echoing() as target:
        with pytest.raises(InvalidInput, match="port: expected a free one"):
            Gate("127.0.0.1", target[1], target)
        with Gate("127.0.0.1", 0, target) as gate:
            assert exchange(gate.port, b"open") == b"open"
        with pytest.raises(ConnectionRefusedError):
            exchange(gate.port, b"closed")
