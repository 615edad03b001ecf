"""Answers that no server of this project gives: the client raises ServiceError for each, within its limit."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from hybridstitch import Client, ServiceError, ServiceTimeout
from hybridstitch.cli.main import main
from tests.support.http_server import fixed, serving

PICTURE = {"b64_json": "", "seed": 1}
DEEP = b"[" * 100_000
VERSION = {"modelVersion": "1.0", "minWorkers": 1, "workers": [], "jobQueueStatus": {"pendingRequests": 0}}
BODIES: list[Any] = [
    *(None, {}, [], [[]], [None], "text", 1, True, b"", b"\xff\xfe", b"{", b"NaN", DEEP),
    {"status": 5},
    *({"models": each} for each in (None, 5, {}, [None], [{}], [{"modelName": 5}])),
    *([{**VERSION, key: None}] for key in VERSION),
    [{**VERSION, "workers": [{}]}],
    *({"data": each, "report": {}, "warnings": []} for each in (None, [], {}, [5], [{}], [{"b64_json": 5}])),
    {"data": [PICTURE], "report": {}, "warnings": "one"},
    {"data": [PICTURE], "report": {}, "warnings": [5]},
    {"data": [PICTURE], "report": [], "warnings": []},
    {"data": [{**PICTURE, "seed": "x"}], "report": {}, "warnings": []},
    {"event": "error", "error": {"problems": 5}},
]
ERRORS: list[Any] = [
    *(None, {}, [], b"", DEEP, {"error": 5}, {"error": {"problems": 5}}, {"error": {"problems": [5, {}]}}),
    {"error": {"type": [], "message": {}, "problems": {"a": 1}}},
    {"error": {"problems": [{"field": 5, "expected": None, "got": {}}]}},
]
CALLS: dict[str, Callable[[Client], Any]] = {
    "generate": lambda client: client.generate("x").images,
    "stream": lambda client: list(client.stream("x")),
    "explain": lambda client: client.explain("x", timeout=5),
    "describe": lambda client: client.describe(),
    "models": lambda client: client.models(),
    "register": lambda client: client.register("a.mar", "a", initial_workers=2),
    "unregister": lambda client: client.unregister("a", timeout=5),
    "scale": lambda client: client.scale("a", 1),
    "set_default": lambda client: client.set_default("a", "1.0"),
}
NO_CONTENT = ("scale", "set_default")
"""Calls for which an answer has nothing to say."""


@pytest.mark.parametrize(("status", "bodies"), [(200, BODIES), (500, ERRORS), (400, ERRORS), (302, ERRORS)])
def test_every_odd_answer_is_a_service_error(status: int, bodies: list[Any]) -> None:
    now: list[Any] = []
    with (
        serving(lambda handler: fixed(status, now[-1])(handler)) as url,
        Client(url, "token", 5, url, "token") as client,
    ):
        for body in bodies:
            now.append(body)
            assert client.health() is False
            for name, call in CALLS.items():
                is_fine = (name == "explain" and isinstance(body, dict)) or name in NO_CONTENT
                if status == 200 and is_fine:
                    continue
                with pytest.raises(ServiceError) as refused:
                    call(client)
                assert str(refused.value), (name, body)
                assert len(str(refused.value)) < 1000, (name, body)
                assert refused.value.status in (0, 500) or refused.value.status == status


def drop_by_drop(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(40):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def half_then_silence(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.4)
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    time.sleep(4)


def silence(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(4)


@pytest.mark.parametrize("answer", [drop_by_drop, half_then_silence, silence])
@pytest.mark.parametrize("call", ["generate", "stream", "models"])
def test_one_limit_holds_for_a_whole_call(answer: Callable[[BaseHTTPRequestHandler], None], call: str) -> None:
    with serving(answer) as url, Client(url, "token", 0.6, url, "token") as client:
        started = time.monotonic()
        with pytest.raises(ServiceTimeout, match=r"0\.6 s"):
            CALLS[call](client)
        assert 0.5 < time.monotonic() - started < 1.5


def test_a_connection_serves_many_calls() -> None:
    ports = set()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        ports.add(handler.client_address[1])
        fixed(200, {"models": []})(handler)

    with serving(answer) as url, Client(url, "token", 5, url, "token") as client:
        for _ in range(5):
            assert client.models() == []
    assert len(ports) == 1


def test_an_error_is_one_line_of_its_own_and_no_chain_of_the_libraries_below() -> None:
    with Client("http://127.0.0.1:9", "token", 5, "http://127.0.0.1:9") as client:
        for call in CALLS.values():
            with pytest.raises(ServiceError, match="Connection refused") as failed:
                call(client)
            text = "".join(traceback.format_exception(failed.value))
            assert "urllib3" not in text
            assert text.count("Traceback (most recent call last)") == 1


@pytest.mark.parametrize("body", [{}, [], b"<html>", {"data": []}, {"data": [PICTURE]}])
def test_the_command_says_in_one_line_that_an_answer_has_no_picture(
    body: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with serving(fixed(200, body)) as url:
        assert main(["generate", "x", "--url", url, "--out", str(tmp_path / "x.png")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unexpected_answer: ")
    assert not list(tmp_path.iterdir())


def test_the_commands_ask_the_model_that_the_address_names(tmp_path: Path) -> None:
    paths: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        paths.append(handler.path)
        fixed(500, {})(handler)

    with serving(answer) as url:
        for command, out in (("generate", "x.png"), ("explain", "x.html")):
            for address, more in ((f"{url}/predictions/plain/2.0", []), (url, []), (url, ["--model", "own"])):
                assert main([command, "x", "--url", address, "--out", str(tmp_path / out), *more]) == 1
    models = ("plain/2.0", "hybridstitch", "own")
    assert paths == [f"/{call}/{model}" for call in ("predictions", "explanations") for model in models]
