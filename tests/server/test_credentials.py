"""Credentials: whitespace around them is no part of them, and no error of any kind shows one."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridstitch import Client, InvalidInput
from hybridstitch.cli.main import main
from hybridstitch.compare.endpoints.headers import read_headers
from hybridstitch.compare.endpoints.open import open_endpoint, read_token
from hybridstitch.compare.endpoints.spec import parse_endpoint
from hybridstitch.serving.client.auth import KEY_FILE_VARIABLE, Credential
from hybridstitch.serving.doctor.examination import examine
from tests.support.http_server import fixed, serving

SECRET = "hunter2MARK"
NOBODY = "http://127.0.0.1:9"
IMPOSSIBLE = {
    "a line end inside": f"{SECRET}\nX-Injected: 1",
    "a carriage return inside": f"{SECRET}\rX",
    "NUL": f"{SECRET}\0",
    "not ASCII": f"{SECRET}é",
    "a control character": f"{SECRET}\x7f",
    "a space inside": f"Bearer {SECRET}",
    "a separator of Unicode": f"{SECRET}\u2028x",
    "nothing": " \r\n",
    "a whole key file": json.dumps({"inference": {"key": SECRET}}),
}
PADDED = {"a line end": f"{SECRET}\n", "a line end of Windows": f"{SECRET}\r\n", "spaces": f"  {SECRET}\t"}
BROKEN_FILES: dict[str, bytes] = {
    "cut": json.dumps({"inference": {"key": SECRET}}).encode()[:-2],
    "not UTF-8": json.dumps({"inference": {"key": SECRET}}).encode() + b"\xff",
    "a list": json.dumps([SECRET]).encode(),
    "another shape": json.dumps({"inference": SECRET}).encode(),
    "another kind": json.dumps({"secret": {"key": SECRET}}).encode(),
    "a number": json.dumps({"inference": {"key": [SECRET]}, "management": {"key": [SECRET]}}).encode(),
    "a key with a line end inside": json.dumps(
        {kind: {"key": f"{SECRET}\nx"} for kind in ("inference", "management")}
    ).encode(),
}
SECRET_URLS = [
    f"http://user:{SECRET}@127.0.0.1:9",
    f"http://{SECRET}@127.0.0.1:9",
    f"http://127.0.0.1:9/?token={SECRET}",
    f"http://127.0.0.1:9#{SECRET}",
    f"http://user:{SECRET}@127.0.0.1:port",
    f"http://user:{SECRET}@[::1",
    f"ftp://user:{SECRET}@127.0.0.1:9",
    f"user:{SECRET}@127.0.0.1:9",
]
both = pytest.mark.parametrize("transport", ["http", "grpc"])


@pytest.fixture(autouse=True)
def no_credentials_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "MANAGEMENT_TOKEN", "KEY_FILE", "TOKEN_A", "TOKEN_B"):
        monkeypatch.delenv(f"HYBRIDSTITCH_{name}", raising=False)
    monkeypatch.setattr("hybridstitch.serving.client.auth.TRY_SECONDS", 0.01)


def says_nothing(error: BaseException) -> bool:
    """Whether no text of an error, of its chain or of what it holds has the secret."""
    shown = ["".join(traceback.format_exception(error))]
    chain: BaseException | None = error
    while chain:
        shown += [str(chain), repr(chain), repr(chain.args), str(getattr(chain, "problems", ""))]
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    return SECRET not in "".join(shown)


def refused(call: Callable[[], Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=field) as error:
        call()
    assert says_nothing(error.value), str(error.value)


@both
@pytest.mark.parametrize("text", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_token_that_cannot_be_one_is_refused_unseen(
    text: str, transport: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    address = {"url": NOBODY, "management_url": NOBODY, "transport": transport}
    refused(lambda: Client(token=text, **address), "^token: expected")
    refused(lambda: Client(management_token=text, **address), "^management_token: expected")
    places = ["TOKEN", "MANAGEMENT_TOKEN"]
    for place in places if "\0" not in text else ():
        monkeypatch.setenv(f"HYBRIDSTITCH_{place}", text)
        refused(lambda: Client(**address), f"^HYBRIDSTITCH_{place}: expected")
        refused(lambda: examine(NOBODY), f"HYBRIDSTITCH_{place}")
        assert main(["doctor", "--url", NOBODY]) == 2
        monkeypatch.delenv(f"HYBRIDSTITCH_{place}")
    for side in "ab" if "\0" not in text else "":
        monkeypatch.setenv(f"HYBRIDSTITCH_TOKEN_{side.upper()}", text)
        refused(lambda side=side: read_token(side, None), f"^HYBRIDSTITCH_TOKEN_{side.upper()}: expected")
        monkeypatch.delenv(f"HYBRIDSTITCH_TOKEN_{side.upper()}")
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("value", [5, b"hunter2MARK", [SECRET]])
def test_a_token_of_another_type_is_refused_unseen(value: Any) -> None:
    refused(lambda: Client(NOBODY, value), "^token: expected")


@pytest.mark.parametrize("content", BROKEN_FILES.values(), ids=BROKEN_FILES.keys())
def test_a_key_file_that_is_none_is_refused_unseen(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / "key_file.json"
    path.write_bytes(content)
    refused(lambda: Client(NOBODY, key_file=path), "^key_file: expected")
    refused(lambda: examine(NOBODY, key_file=path), "^key-file: expected")
    refused(lambda: read_token("a", path), "^key-file-a: expected")
    for command in (["doctor"], ["generate", "x", "--out", str(tmp_path / "x.png")]):
        assert main([*command, "--url", NOBODY, "--key-file", str(path)]) == 2
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(path))
    refused(lambda: Client(NOBODY), f"^{KEY_FILE_VARIABLE}: expected")
    assert SECRET not in "".join(capfd.readouterr())


def test_a_secret_in_the_place_of_a_key_file_is_not_shown() -> None:
    for text in (json.dumps({"inference": {"key": SECRET}}), f"{SECRET}\n", f"{SECRET}\0"):
        refused(lambda text=text: Client(NOBODY, key_file=text), "^key_file: expected")
        refused(lambda text=text: read_token("b", Path(text)), "^key-file-b: expected")


@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_secret_in_an_address_is_refused_unseen(url: str, capfd: pytest.CaptureFixture) -> None:
    for transport in ("http", "grpc"):
        refused(lambda transport=transport: Client(url, transport=transport), "^url: expected")
        refused(lambda transport=transport: Client(NOBODY, management_url=url, transport=transport), "management_url")
    refused(lambda: examine(url), "^url: expected")
    assert main(["doctor", "--url", url]) == 2
    assert main(["doctor", "--url", NOBODY, "--management-url", url]) == 2
    for command in ("generate", "explain"):
        assert main([command, "x", "--url", url]) == 2
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("url", [url for url in SECRET_URLS if "@" in url and url.startswith("http")])
def test_a_secret_in_an_endpoint_of_a_comparison_is_refused_unseen(url: str) -> None:
    refused(lambda: parse_endpoint(f"{url}/predictions/x#seed=off", "a"), "^a: expected")


@pytest.mark.parametrize("text", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_header_of_a_comparison_is_not_shown(text: str) -> None:
    for given in (f"X-Api-Key {text}", f"X-Api-Key: {text}\n{text}", f"X-Api-Key: @{text}\0", text):
        refused(lambda given=given: read_headers("a", [given]), "^header-a: expected")


@pytest.mark.parametrize("text", PADDED.values(), ids=PADDED.keys())
def test_white_space_around_a_token_is_not_sent(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key_file.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"inference": {"key": text}}).encode())  # as some editors save it
    sent: list[str] = []

    def answer(handler: Any) -> None:
        sent.append(handler.headers["authorization"])
        fixed(200, {"status": "Healthy"})(handler)

    with serving(answer) as url:
        assert Client(url, text).health()
        assert Client(url, key_file=path).health()
        monkeypatch.setenv("HYBRIDSTITCH_TOKEN", text)
        assert Client(url).health()
        for found in (read_token("a", path), Credential("inference")._token):
            assert found == SECRET
    assert sent == [f"Bearer {SECRET}"] * 3


def test_no_object_and_no_failed_call_shows_its_token() -> None:
    with serving(
        lambda handler: fixed(400, {"type": "E", "message": handler.headers["authorization"]})(handler)
    ) as url:
        for address in (url, NOBODY):
            with Client(address, SECRET, 5, address, SECRET) as client:
                asked = parse_endpoint(f"{address}/predictions/x?key={SECRET}")
                endpoint = open_endpoint(asked, SECRET, 5, headers={"X-Api-Key": SECRET})
                for call in (lambda: client.generate("x"), client.models, lambda: list(client.stream("x"))):
                    with pytest.raises(RuntimeError) as failed:
                        call()
                    assert says_nothing(failed.value), str(failed.value)
                assert SECRET not in repr([client, vars(client), Credential("inference", SECRET), endpoint])
                assert SECRET not in (endpoint.ask("x", 0).error or "")


def test_a_token_of_the_environment_stays_with_clients_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN", "stale")
    monkeypatch.setenv(KEY_FILE_VARIABLE, "/nowhere")
    sent: list[str | None] = []

    def answer(handler: Any) -> None:
        sent.append(handler.headers["authorization"])
        fixed(200, {"status": "Healthy"})(handler)

    with serving(answer) as url:
        assert Client(url, environment=False).health()
        assert Client(url).health()
    assert sent == [None, "Bearer stale"]
