"""The client over HTTP and gRPC on the real server, and its streams: the same answers, errors and limits on both.

The tests of streams from the endpoint itself are the last of this file.
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from hybridstitch import Client, InvalidInput, ServiceError, ServiceTimeout, ServiceUnreachable
from hybridstitch.serving.answers import Result
from hybridstitch.serving.server import Server
from tests.server.conftest import QUICK, Connect
from tests.server.echo import pack_echo

both = pytest.mark.parametrize("transport", ["http", "grpc"])


def test_both_transports_bring_the_same_picture(connect: Connect) -> None:
    http, grpc = (connect(transport).generate(**QUICK) for transport in ("http", "grpc"))
    assert np.array_equal(http.image, grpc.image)
    assert http.seed == grpc.seed == 7
    assert http.report["recipe"] == grpc.report["recipe"]
    assert http.warnings == grpc.warnings == tuple(http.report["warnings"])
    assert [image.size for image in grpc.images] == [(128, 128)]


@both
def test_an_error_carries_all_problems(connect: Connect, transport: str) -> None:
    with pytest.raises(ServiceError, match=r"(?s)width.*seed|seed.*width") as refused:
        connect(transport).generate("red apple", width=3, seed=-1)
    error = refused.value
    assert (error.status, error.kind) == (400, "invalid_request")
    got = {problem["field"]: problem["got"] for problem in error.problems}
    assert got == {"width": 3, "seed": -1}
    assert all(problem["expected"] for problem in error.problems)


@both
def test_an_unknown_model_is_not_found(connect: Connect, transport: str) -> None:
    client = connect(transport)
    for model, kind in (("nothing", "ModelNotFoundException"), ("plain/9.9", "ModelVersionNotFoundException")):
        for ask in (client.predict, lambda payload, model: client.describe(model)):
            with pytest.raises(ServiceError) as refused:
                ask(QUICK, model)
            assert (refused.value.status, refused.value.kind) == (404, kind)


@both
def test_generate_many_loses_nothing(connect: Connect, transport: str) -> None:
    requests = ["red apple", {"prompt": "blue car", "seed": 3}, {"prompt": "red apple", "width": 3}, {"prompt": {1, 2}}]
    answers = connect(transport).generate_many(requests, num_inference_steps=1, seed=5)
    first, second, refused, unsent = answers
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert (first.seed, second.seed) == (5, 3)
    assert isinstance(refused, ServiceError)
    assert [problem["field"] for problem in refused.problems] == ["width"]
    assert isinstance(unsent, InvalidInput)
    with pytest.raises(InvalidInput, match="concurrency"):
        connect(transport).generate_many(requests, concurrency=0)


@both
def test_versions_are_registered_scaled_flipped_and_unloaded(connect: Connect, store: Path, transport: str) -> None:
    client = connect(transport)
    first, second = (pack_echo(store, version) for version in ("1.0", "2.0"))
    client.register(first, "pair", batch_size=2, max_batch_delay_ms=30)
    try:
        (described,) = client.describe("pair", customized=False)
        assert (described["batchSize"], described["maxBatchDelay"]) == (2, 30)
        client.register(second, "pair")
        assert client.predict({}, "pair").json()["version"] == "1.0"
        client.set_default("pair", "2.0")
        assert [client.predict({}, f"pair{version}").json()["version"] for version in ("", "/1.0")] == ["2.0", "1.0"]
        client.scale("pair", 2, version="1.0")
        states = {
            each["modelVersion"]: [worker["status"] for worker in each["workers"]]
            for each in client.describe("pair/all", customized=False)
        }
        assert states == {"1.0": ["READY", "READY"], "2.0": ["READY"]}
        with pytest.raises(ServiceError) as twice:
            client.register(first, "pair")
        assert (twice.value.status, twice.value.kind) == (409, "ConflictStatusException")
        with pytest.raises(ServiceError) as not_last:
            client.unregister("pair")
        assert (not_last.value.status, not_last.value.kind) == (403, "InvalidModelVersionException")
    finally:
        client.unregister("pair", "1.0")
        client.unregister("pair")
    assert "pair" not in client.models()


@both
def test_a_registration_that_fails_leaves_nothing(connect: Connect, store: Path, transport: str) -> None:
    broken = pack_echo(store, "0.1", code="raise RuntimeError('cannot start')")
    client = connect(transport)
    with pytest.raises(ServiceError) as failed:
        client.register(broken, "broken")
    assert failed.value.status == 500
    assert "broken" not in client.models()


@both
def test_numbers_that_make_no_sense_are_refused_before_they_are_sent(connect: Connect, transport: str) -> None:
    client = connect(transport)
    with pytest.raises(InvalidInput) as refused:
        client.register("plain.mar", "other", batch_size=0, initial_workers=-1)
    assert [problem.field for problem in refused.value.problems] == ["batch_size", "initial_workers"]
    with pytest.raises(InvalidInput, match="workers"):
        client.scale("plain", -1)
    with pytest.raises(InvalidInput, match="management_url"):
        connect(transport, management_url=None).models()
    for timeout in (0, math.inf, None):
        with pytest.raises(InvalidInput, match="timeout"):
            connect(transport, timeout=timeout)


def test_urls_and_transports_are_checked() -> None:
    with pytest.raises(InvalidInput, match="transport"):
        Client("http://127.0.0.1:8080", transport="carrier pigeon")
    for transport, url in (("http", "127.0.0.1:8080"), ("grpc", "127.0.0.1"), ("grpc", "http://127.0.0.1:80/path")):
        with pytest.raises(InvalidInput, match="url"):
            Client(url, transport=transport)


@both
def test_the_endpoint_learns_when_the_request_was_sent(connect: Connect, echo: str, transport: str) -> None:
    before = time.time()
    start = connect(transport).predict({}, echo).json()["start"]
    assert start.startswith("t=")
    assert before - 1e-5 <= float(start[2:]) <= time.time()


def test_explain_asks_the_explanations_over_http_and_in_band_over_grpc(connect: Connect, echo: str) -> None:
    http, grpc = (connect(transport).explain("red", echo, target="mask") for transport in ("http", "grpc"))
    asked = {"prompt": "red", "target": "mask"}
    assert (http["explains"], http["payload"]) == (True, asked)
    assert (grpc["explains"], grpc["payload"]) == (False, {"explain": asked})


@both
def test_a_refused_token_is_read_again_from_its_file(
    connect: Connect, server: Server, tmp_path: Path, transport: str
) -> None:
    key_file = tmp_path / "key_file.json"
    stale = {"inference": {"key": "stale"}, "management": {"key": "stale"}}
    key_file.write_text(json.dumps(stale))
    client = connect(transport, token=None, management_token=None, key_file=key_file)
    for content in (json.dumps(stale), "half-writ"):
        key_file.write_text(content)
        with pytest.raises(ServiceError) as refused:
            client.generate(**QUICK)
        assert (refused.value.status, refused.value.kind) == (400, "InvalidKeyException")
    key_file.write_text(server.key_file.read_text())
    assert client.generate(**QUICK).seed == 7
    assert "plain" in client.models()
    key_file.unlink()  # the fresh token is kept
    assert client.generate(**QUICK).seed == 7


@both
def test_a_token_comes_from_the_argument_the_environment_or_the_key_file(
    connect: Connect, server: Server, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    def health(**arguments: Any) -> bool:
        return connect(transport, **{"token": None, "management_token": None, **arguments}).health()

    assert not health()
    assert health(key_file=server.key_file)
    monkeypatch.setenv("HYBRIDSTITCH_KEY_FILE", str(server.key_file))
    assert health()
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN", "wrong")
    assert not health()
    assert health(token=server.token())
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN", str(server.token()))
    monkeypatch.setenv("HYBRIDSTITCH_MANAGEMENT_TOKEN", str(server.token("management")))
    monkeypatch.setenv("HYBRIDSTITCH_KEY_FILE", "/nowhere")
    assert health()
    monkeypatch.delenv("HYBRIDSTITCH_TOKEN")
    with pytest.raises(InvalidInput, match="key_file"):
        health()


@both
def test_an_answer_that_never_comes_is_a_timeout(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, "token", timeout=0.5, management_url=url, transport=transport) as client:
            for ask in (lambda: client.generate("red apple"), client.models, lambda: client.explain("red apple")):
                started = time.monotonic()
                with pytest.raises(ServiceTimeout, match=r"0\.5 s"):
                    ask()
                assert time.monotonic() - started < 5
            assert not client.health()


@both
def test_a_late_answer_is_a_timeout(connect: Connect, echo: str, transport: str) -> None:
    with pytest.raises(ServiceTimeout):
        connect(transport, timeout=0.3).predict({"sleep": 1}, echo)
    assert connect(transport).predict({"sleep": 0}, echo).json()["version"] == "1.0"


@both
def test_a_refused_connection_has_an_error_of_its_own(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        url = f"http://127.0.0.1:{once.getsockname()[1]}"
    with Client(url, transport=transport, timeout=20) as client:
        started = time.monotonic()
        with pytest.raises(ServiceUnreachable):
            client.generate("red apple")
        assert time.monotonic() - started < 10
        assert not client.health()


@both
def test_an_answer_of_another_model_is_told_from_a_picture(connect: Connect, echo: str, transport: str) -> None:
    with pytest.raises(ServiceError) as strange:
        connect(transport).generate("red apple", model=echo)
    assert (strange.value.status, strange.value.kind) == (0, "unexpected_answer")


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


# From here on the endpoint itself streams.


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


def test_several_pictures_in_one_answer(connect: Connect) -> None:
    http, grpc = (connect(transport).generate(**QUICK, num_images=2) for transport in ("http", "grpc"))
    assert len(http.images) == len(grpc.images) == 2
    for one, other in zip(http.images, grpc.images, strict=True):
        assert np.array_equal(one, other)
    second = connect("http").generate(**(QUICK | {"seed": QUICK["seed"] + 1}))
    assert np.abs(np.asarray(http.images[1], dtype=int) - np.asarray(second.image, dtype=int)).max() <= 1
