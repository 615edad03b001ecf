"""Whatever a row of a batch holds: its sender gets an answer, and so do its neighbours."""

from __future__ import annotations

import json
import random
import socket
import time
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from ts.utils.util import PredictionException

from hybridstitch.serving.server.server import Server
from hybridstitch.wire.names import REQUEST_START as START
from tests.support.handlers import HTTP, QUICK, call, make_handler
from tests.support.served import QUICK as SERVED

FORM = "application/x-www-form-urlencoded"
VALUES: list[Any] = [
    400_000_000,
    7.5,
    -1,
    True,
    None,
    [],
    [300],
    [None],
    {},
    {"a": {"b": 1}},
    "",
    "1",
    b"",
    b"\xff",
    10**400,
]
VALUES += [bytearray(b"[1"), float("nan"), "\ud800", b"[" * 5000, [[[[[[[[]]]]]]]], b"null"]
KEYS = [
    "body",
    "data",
    "prompt",
    "seed",
    "region",
    "recipe",
    "explain",
    "stream",
    START,
    "host",
    "",
    "{",
    "model_name",
]
HEADERS: list[dict[str, Any]] = [
    {},
    {"Host": "a", "Content-Type": "application/json"},
    {"Content-Length": "1"},
    {"Content-Length": "1", "Content-Type": FORM},
    {"Content-Length": "1", "Content-Type": "multipart/form-data; boundary=x"},
    {"Host": "a", "Content-Type": "text/plain", "X-Request-Id": "\u00e9" * 500},
    {"Host": "a", "Content-Type": "", START: "t=now"},
    {"Host": "a", "Content-Type": "image/png", "explain": "True"},
    {"seed": {"content-type": "application/json"}, "content-length": "1", "content-type": FORM},
]


@pytest.fixture(scope="module")
def handler(tiny: Path) -> Any:
    return make_handler("hybridstitch_handler", tiny, {"handler": {"defaults": {"num_inference_steps": 1}}})


def assert_all_are_answered(handler: Any, rows: list[dict[str, Any]], headers: list[dict[str, Any]]) -> None:
    """Hand the rows over in one batch between two good ones."""
    good = {"body": dict(QUICK)}
    answers, context = call(handler, [good, *rows, good], [HTTP, *headers, HTTP])
    assert len(answers) == len(rows) + 2
    assert all(answer.startswith(b"\x89PNG") for answer in (answers[0], answers[-1]))
    for index, (row, sent) in enumerate(zip(rows, headers, strict=True), 1):
        status, is_http = context.get_response_status(index)[0], "content-length" in str(sent).lower() or "Host" in sent
        assert status in (200, 400), (row, sent, answers[index])
        # With it, TorchServe sends an HTTP client nothing at all.
        assert (context.get_response_headers(index).get("ts_stream_next") == "false") is not is_http, sent
        if status == 400:
            assert all(each["expected"] for each in json.loads(answers[index])["error"]["problems"])


@pytest.mark.parametrize("headers", HEADERS, ids=range(len(HEADERS)))
def test_no_row_harms_its_neighbours(handler: Any, headers: dict[str, Any]) -> None:
    rows = [{"prompt": b"x", key: value} if key == START else {key: value} for key in KEYS for value in VALUES]
    assert_all_are_answered(handler, rows, [headers] * len(rows))


@pytest.mark.slow
def test_no_row_of_any_shape_is_an_exception(handler: Any) -> None:
    """Rows made at random, for a few seconds."""
    generator, ends = random.Random(0), time.monotonic() + 3
    while time.monotonic() < ends:
        rows = [_any_row(generator) for _ in range(40)]
        assert_all_are_answered(handler, rows, [dict(generator.choice(HEADERS)) for _ in rows])


def _any_row(generator: random.Random) -> dict[str, Any]:
    names = [*KEYS, "width", "num_images", "speed", "deadline_ms", "previews", "output_format", "target", "colour"]
    content = {generator.choice(names): _any_value(generator, 3) for _ in range(generator.randrange(5))}
    if generator.random() < 0.3:
        return content
    body = json.dumps({"num_inference_steps": 1, **content}, default=str).encode()
    kind = generator.randrange(4)
    if kind == 0:  # a byte of it changes
        place = generator.randrange(len(body))
        body = body[:place] + bytes([generator.randrange(256)]) + body[place + 1 :]
    if kind == 1:
        return {"body": json.loads(body)} if body.isascii() else {}
    return {generator.choice(["body", "data"]): bytearray(body)}


def _any_value(generator: random.Random, depth: int) -> Any:
    kind = generator.randrange(8)
    if kind == 0 and depth:
        return [_any_value(generator, depth - 1) for _ in range(generator.randrange(4))]
    if kind == 1 and depth:
        return {generator.choice(KEYS): _any_value(generator, depth - 1) for _ in range(generator.randrange(3))}
    return generator.choice(VALUES)


def test_a_number_where_bytes_belong_takes_no_memory(handler: Any) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = [{"prompt": b"x", "num_inference_steps": b"1", START: 10**9}]
    answers, _ = call(handler, rows * 2, [{}, {"Content-Length": "1", "Content-Type": "multipart/form-data"}])
    assert len(answers) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_default_to_stream_is_not_for_grpc(tiny: Path) -> None:
    defaults = {"stream": True, "previews": 1, "response_format": "json"}
    handler = make_handler("hybridstitch_handler", tiny, {"handler": {"defaults": defaults}})
    (answer,), context = call(handler, [{"data": json.dumps(QUICK).encode()}], {})
    assert json.loads(answer)["data"]
    assert context.get_response_headers(0)["ts_stream_next"] == "false"
    for row in ({"data": json.dumps(QUICK | {"stream": True}).encode()}, {"prompt": b"x", "stream": b"true"}):
        with pytest.raises(PredictionException) as refused:
            call(handler, [row], {})
        assert [each["field"] for each in json.loads(refused.value.message)["error"]["problems"]] == ["stream"]


MULTIPART = "multipart/form-data; boundary=x"
REQUEST = json.dumps(SERVED).encode()


def _part(name: str, value: bytes, *more: str) -> bytes:
    head = "\r\n".join([f'Content-Disposition: form-data; name="{name}"' + (more[0] if more else ""), *more[1:]])
    return b"--x\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n"


AS_FILE = ('; filename="a"', "Content-Type: application/json")
FIELDS = b"".join(_part(name, str(value).encode()) for name, value in SERVED.items())
RAW: list[tuple[str, bytes, str, bytes]] = [
    ("JSON without Host", b"HTTP/1.1", "application/json", REQUEST),
    ("JSON of HTTP/1.0", b"HTTP/1.0", "application/json", REQUEST),
    ("a form without Host", b"HTTP/1.1", FORM, b"prompt=red+apple+on+blue&seed=7&num_inference_steps=2"),
    ("a form of HTTP/1.0", b"HTTP/1.0", FORM, b"prompt=red+apple+on+blue&seed=7&num_inference_steps=2"),
    ("parts without Host", b"HTTP/1.1", MULTIPART, FIELDS + b"--x--\r\n"),
]
RAW_BAD: list[tuple[str, bytes, str, bytes]] = [
    (
        "a start that is a number",
        b"HTTP/1.1",
        MULTIPART,
        FIELDS + _part(START, b"400000000", *AS_FILE) + b"--x--\r\n",
    ),
    (
        "a start that is a list",
        b"HTTP/1.1",
        MULTIPART,
        FIELDS + _part(START, b"[300]", *AS_FILE) + b"--x--\r\n",
    ),
    ("a prompt that is a list", b"HTTP/1.1", MULTIPART, _part("prompt", b'["a"]', *AS_FILE) + b"--x--\r\n"),
    ("nothing", b"HTTP/1.0", "application/json", b""),
]


@pytest.fixture
def post(server: Server) -> Any:
    def posted(version: bytes, content_type: str, body: bytes) -> tuple[int, bytes]:
        with socket.create_connection(("127.0.0.1", server.ports["inference"]), timeout=60) as connection:
            head = [b"POST /predictions/hybridstitch " + version, f"Authorization: Bearer {server.token()}".encode()]
            head += [f"Content-Type: {content_type}".encode(), b"Content-Length: %d" % len(body)]
            connection.sendall(b"\r\n".join(head) + b"\r\n\r\n" + body)
            answer = HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read()

    return posted


@pytest.mark.parametrize(("version", "content_type", "body"), [raw[1:] for raw in RAW], ids=[raw[0] for raw in RAW])
def test_a_request_needs_no_host_to_be_answered(post: Any, version: bytes, content_type: str, body: bytes) -> None:
    status, content = post(version, content_type, body)
    assert status == 200
    assert content.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("version", "content_type", "body"), [raw[1:] for raw in RAW_BAD], ids=[raw[0] for raw in RAW_BAD]
)
def test_a_bad_request_without_host_is_answered_by_name(
    post: Any, version: bytes, content_type: str, body: bytes
) -> None:
    status, content = post(version, content_type, body)
    assert status == 400
    assert json.loads(content)["error"]["problems"]
