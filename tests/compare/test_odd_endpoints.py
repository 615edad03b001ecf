"""Servers of others: what is sent to them, and what their answers are read as."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybridstitch.cli.main import main
from hybridstitch.compare.endpoints.headers import read_headers
from hybridstitch.compare.endpoints.open import open_endpoint
from hybridstitch.compare.endpoints.spec import parse_endpoint
from hybridstitch.errors import InvalidInput

KEY = "k3y-of-the-test"


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 128, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = picture()
ENCODED = base64.b64encode(PICTURE).decode()
LINES = "\n".join(ENCODED[start : start + 76] for start in range(0, len(ENCODED), 76))


class Asked:
    """One request as the server saw it, and what it may answer with."""

    def __init__(self, handler: BaseHTTPRequestHandler):
        length = int(handler.headers.get("Content-Length") or 0)
        self.method, self.path, self.headers = handler.command, handler.path, dict(handler.headers)
        self.key = self.headers.get("x-api-key")
        body = handler.rfile.read(length)
        self.fields: dict[str, Any] = json.loads(body) if body else {}
        self.host = f"http://127.0.0.1:{handler.server.server_port}"  # type: ignore[attr-defined]


def data(**fields: Any) -> Any:
    return {"created": 1, "data": [fields]}


def stalled(_: Asked) -> Any:
    time.sleep(30)


ANSWERS: dict[str, Callable[[Asked], Any]] = {
    "/picture": lambda _: PICTURE,
    "/refuses-format/images/generations": lambda asked: (
        (400, {"error": {"message": "Unknown parameter: 'response_format'."}})
        if "response_format" in asked.fields
        else data(b64_json=ENCODED)
    ),
    "/refuses-n": lambda asked: (400, {"error": "n"}) if "n" in asked.fields else data(b64_json=ENCODED),
    "/version?api-version=2": lambda _: PICTURE,
    f"/version?api-version=2&code={KEY}": lambda _: PICTURE,
    f"/echo?code={KEY}": lambda asked: {"no such code": KEY, "path": asked.path},
    "/keyed": lambda asked: PICTURE if asked.key == KEY else (403, f"not {asked.key}"),
    "/url": lambda asked: data(url=f"{asked.host}/files/1.png?signed=x", revised_prompt="see http://elsewhere/help"),
    "/relative": lambda _: data(url="/files/1.png"),
    "/named": lambda asked: {"output": [f"{asked.host}/files/1.png"], "id": "7"},
    "/null": lambda _: data(b64_json=ENCODED, url=None),
    "/lines": lambda _: data(b64_json=LINES),
    "/inline": lambda _: data(url=f"data:image/png;base64,{ENCODED}"),
    "/elsewhere": lambda _: data(url="http://localhost:1/files/1.png"),
    "/two-urls": lambda asked: [{"url": f"{asked.host}/files/1.png"}, {"url": f"{asked.host}/files/2.png"}],
    "/broken-url": lambda _: data(url="http://[x/1.png"),
    "/gone": lambda _: data(url="/nowhere.png"),
    "/page": lambda _: data(url="/html"),
    "/html": lambda _: "<html>",
    "/stalled": stalled,
}


@pytest.fixture(scope="module")
def odd() -> Iterator[tuple[str, list[Asked]]]:
    """The address of the server, and the requests that it got."""
    seen: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            asked = Asked(self)
            seen.append(asked)
            keyed = asked.key in (None, KEY)
            found = PICTURE if asked.path.startswith("/files/") and keyed else ANSWERS.get(asked.path)
            answer = found(asked) if callable(found) else found or (404, "nothing here")
            status, body = answer if isinstance(answer, tuple) else (200, answer)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.respond()

        def do_POST(self) -> None:
            self.respond()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "path",
    [
        "/picture",
        "/refuses-format/images/generations#response_format=&seed=off&size=16x16",
        "/refuses-n#kind=openai&n=",
        "/version?api-version=2",
        "/keyed",
        "/url",
        "/url#kind=openai",
        "/relative",
        "/named",
        "/null#kind=openai",
        "/lines#kind=base64",
        "/inline",
    ],
)
def test_the_picture_of_every_kind_of_server_is_found(odd: tuple[str, list[Asked]], path: str):
    url, seen = odd
    del seen[:]
    answer = open_endpoint(parse_endpoint(f"{url}{path}"), headers={"x-api-key": KEY}).ask("a cat", 3)
    assert answer.picture == PICTURE, answer.error
    assert all(asked.headers["x-api-key"] == KEY for asked in seen)
    assert seen[0].path == path.partition("#")[0]
    assert seen[0].fields["prompt"] == "a cat"
    assert not {"response_format", "n", "kind"} & {name for name, value in seen[0].fields.items() if value == ""}


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/refuses-format/images/generations", "400"),
        ("/elsewhere", "another server, which is not asked: http://localhost:1/files/1.png"),
        ("/two-urls", "2 addresses"),
        ("/broken-url", "another server"),
        ("/gone", "404"),
        ("/page", "not the bytes"),
        ("/url#kind=image", "not the bytes"),
        ("/stalled", "ReadTimeout"),
    ],
)
def test_what_brings_no_picture_is_a_failure_that_says_why(odd: tuple[str, list[Asked]], path: str, error: str):
    started = time.monotonic()
    answer = open_endpoint(parse_endpoint(f"{odd[0]}{path}"), timeout=1).ask("a cat", 3)
    assert answer.picture is None
    assert error in (answer.error or "")
    assert time.monotonic() - started < 3


def test_headers_are_secrets(odd: tuple[str, list[Asked]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "key").write_text(f"{KEY}\r\n")
    assert read_headers("a", ["x-api-key: @" + str(tmp_path / "key"), "X-Org:7"]) == {"x-api-key": KEY, "X-Org": "7"}
    assert KEY not in str(open_endpoint(parse_endpoint(f"{odd[0]}/echo?code={KEY}")).ask("a cat", 0).error)
    wrong = open_endpoint(parse_endpoint(f"{odd[0]}/keyed"), headers={"x-api-key": "wr0ng-key"}).ask("a cat", 0)
    assert "403" in (wrong.error or "")
    assert "wr0ng-key" not in (wrong.error or "")
    bad = [KEY, "Host: x", "a: 1", "A: 2", f"b: {KEY}\nX: y", "c: @/no/such/file", f"x y: {KEY}", "d:"]
    with pytest.raises(InvalidInput) as refused:
        read_headers("b", bad)
    assert {problem.field for problem in refused.value.problems} == {"header-b"}
    assert len(refused.value.problems) == 7
    assert KEY not in str(refused.value)


def test_a_comparison_sends_each_side_its_headers_and_writes_none(
    odd: tuple[str, list[Asked]], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN_B", f"{KEY}-of-b")
    (tmp_path / "p.txt").write_text("one\n")
    in_query = f"{odd[0]}/version?api-version=2&code={KEY}"
    prompts = ["--prompts", str(tmp_path / "p.txt")]
    command = ["compare", "--a", f"{odd[0]}/keyed", "--b", f"{in_query}#quality=9", *prompts]
    command += ["--out", str(tmp_path / "out")]
    assert main([*command, "--header-a", f"x-api-key: {KEY}"]) == 1
    assert "No difference" in capsys.readouterr().out
    again = json.loads((tmp_path / "out" / "report.json").read_text())["rerun"]
    assert "--header-a 'x-api-key: @FILE'" in again
    assert "--key-file-b KEY_FILE" in again
    assert "code=hidden-" in again
    assert main([*command, "--header-a", f"x-api-key: {KEY}"]) == 1  # the same comparison
    other = [each.replace(KEY, "another-key") for each in command]
    assert main([*other, "--header-a", f"x-api-key: {KEY}"]) == 2
    assert "with the same b" in capsys.readouterr().err
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"prompt": "one"}\n' * 2)
    asked = ["--requests", str(requests), "--share", "1", "--out", str(tmp_path / "out" / "shadow")]
    assert main(["compare", "shadow", "--a", in_query, "--b", in_query, *asked]) in (0, 1)
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in written)
    assert main([*command, "--header-a", KEY]) == 2
    assert KEY not in capsys.readouterr().err


def test_both_sides_are_tried_before_anything_is_loaded(
    odd: tuple[str, list[Asked]], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    broken = tmp_path / "broken"  # a pair that cannot be loaded: whoever tries ends with another error
    broken.mkdir()
    (broken / "model_index.json").write_text("{}")
    (tmp_path / "p.txt").write_text("one\n")
    (tmp_path / "requests.jsonl").write_text('{"prompt": "one"}\n')
    refused = ("b: expected", "--key-file-b", "HYBRIDSTITCH_TOKEN_B", "--header-b", "403")
    prompts, requests = (["--prompts", str(tmp_path / "p.txt")], ["--requests", str(tmp_path / "requests.jsonl")])
    for companion, given, a, b, words in (
        ([], prompts, str(broken), f"{odd[0]}/keyed", refused),
        (
            [],
            prompts,
            str(broken),
            "http://127.0.0.1:9/predictions/x",
            ("b: expected", "start its server", "Connection refused"),
        ),
        ([], prompts, str(broken), f"{odd[0]}/html", ("b: expected", "no pictures")),
        ([], prompts, f"{odd[0]}/stalled", f"{odd[0]}/keyed", refused),
        (["shadow"], requests, str(broken), f"{odd[0]}/keyed", refused),
    ):
        started = time.monotonic()
        assert (
            main(
                [
                    "compare",
                    *companion,
                    "--a",
                    a,
                    "--b",
                    b,
                    *given,
                    "--out",
                    str(tmp_path / "-".join(["out", *companion])),
                ]
            )
            == 2
        )
        said = capsys.readouterr().err
        assert all(word in said for word in words), said
        assert "a: expected" not in said
        assert time.monotonic() - started < 8
