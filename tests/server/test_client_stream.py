"""Streams as the client reads them: from servers that cut, fail and pause, and from the endpoint itself."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

from hybridstitch import Client, ServiceError
from hybridstitch.serving.client.replies import Result
from tests.support.served import QUICK, Connect

ERROR = {"type": "deadline_exceeded", "message": "too late", "problems": []}
SCRIPTS: dict[str, list[dict[str, Any] | float | None]] = {
    # events to send, seconds to pause, None: cut the connection
    "/predictions/good": [{"event": "progress", "step": 1}, 0.3, {"event": "preview"}, {"event": "result", "data": []}],
    "/predictions/late": [{"event": "progress", "step": 1}, 5.0, {"event": "result"}],
    "/predictions/failing": [{"event": "progress", "step": 1}, {"event": "error", "error": ERROR}],
    "/predictions/cut": [{"event": "progress", "step": 1}, None],
    "/predictions/short": [{"event": "progress", "step": 1}],
    "/predictions/other": [{"created": 1}],
}


class Streaming(BaseHTTPRequestHandler):
    """Sends the script of its path as chunks, some events in two of them, as any server on the way may cut them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):  # the client may be gone
            for step in SCRIPTS[self.path]:
                if step is None:
                    self.close_connection = True
                    return
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    line = json.dumps(step).encode() + b"\n"
                    for piece in (line[:7], line[7:]):
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def streams() -> Iterator[Client]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Streaming) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}", timeout=1) as client:
            yield client
        server.shutdown()


def test_events_come_as_they_are_sent(streams: Client) -> None:
    times, names = [], []
    for event in streams.stream("red apple", "good"):
        times.append(time.monotonic())
        names.append(event["event"])
    assert names == ["progress", "preview", "result"]
    assert times[1] - times[0] > 0.2


@pytest.mark.parametrize(
    ("script", "kind", "status"),
    [
        ("late", "timeout", 0),
        ("failing", "deadline_exceeded", 504),
        ("cut", "unreachable", 0),
        ("short", "unreachable", 0),
    ],
)
def test_a_stream_without_a_result_raises_after_its_last_event(
    streams: Client, script: str, kind: str, status: int
) -> None:
    events = streams.stream("red apple", script)
    assert next(events)["event"] == "progress"
    started = time.monotonic()
    with pytest.raises(ServiceError) as ended:
        next(events)
    assert (ended.value.kind, ended.value.status) == (kind, status)
    assert time.monotonic() - started < 3


def test_an_answer_that_is_no_stream_is_told(streams: Client) -> None:
    with pytest.raises(ServiceError, match="unexpected_answer"):
        next(streams.stream("red apple", "other"))


def test_leaving_a_stream_closes_its_connection() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, Client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=5) as client:
        events = client.stream("red apple")
        received: list[dict[str, Any]] = []
        reader = Thread(target=lambda: received.append(next(events)))
        reader.start()
        connection, _ = listening.accept()
        connection.settimeout(5)
        with connection:
            sent = b""
            while b'"stream": true' not in sent:
                sent += connection.recv(65536)
            line = b'{"event": "progress"}\n'
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + b"%x\r\n%s\r\n" % (len(line), line))
            reader.join(5)
            assert received == [{"event": "progress"}]
            events.close()
            assert connection.recv(1) == b""


def test_a_stream_ends_with_the_same_picture(connect: Connect) -> None:
    client = connect("http")
    events = list(client.stream(**QUICK))
    assert {event["event"] for event in events[:-1]} <= {"progress", "preview", "mask"}
    assert any(event["event"] == "progress" for event in events)
    result = Result.from_document(events[-1])
    assert np.array_equal(result.image, client.generate(**QUICK).image)


def test_a_stream_that_is_refused_raises_with_all_problems(connect: Connect) -> None:
    with pytest.raises(ServiceError) as refused:
        list(connect("http").stream("red apple", width=3, seed=-1))
    assert {problem["field"] for problem in refused.value.problems} == {"width", "seed"}
