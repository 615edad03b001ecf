"""SageMaker's contract: which model of its folder is served, a port that opens when ready, /ping and /invocations."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from hybridstitch.cli.main import main
from hybridstitch.errors import InvalidInput
from hybridstitch.serving.server.java_and_ports import is_free
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.sagemaker import find_archive
from hybridstitch.serving.server.server import Server
from tests.support.archives import pack_echo
from tests.support.served import QUICK

SECONDS = 180


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def endpoint(tiny: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of what SageMaker starts, `serve` without options, on a packed pair; and its process."""
    port = free_port()
    command = [sys.executable, "-m", "hybridstitch.cli.main", "serve", "--store", str(tiny), "--port", str(port)]
    environment = os.environ | {"HYBRIDSTITCH_SAGEMAKER": "1"}
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with pytest.raises(requests.ConnectionError):
                requests.get(f"{url}/ping", timeout=5)  # closed: nobody sends a request to a model that is loading
            line = process.stdout.readline()
            assert line.startswith("ready: hybridstitch 1.0 (hybridstitch) at http://0.0.0.0:"), line
            yield url, process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.mark.server
def test_it_is_pinged_invoked_and_ended(endpoint: tuple[str, subprocess.Popen[str]]) -> None:
    url, process = endpoint

    def invoke(body: Any, **headers: str) -> requests.Response:
        return requests.post(f"{url}/invocations", json=body, headers=headers, timeout=SECONDS)

    assert requests.get(f"{url}/ping", timeout=10).status_code == 200
    picture = invoke(QUICK, Accept="image/png")
    assert (picture.status_code, picture.headers["content-type"], picture.content[:4]) == (200, "image/png", b"\x89PNG")
    assert invoke(QUICK).content == picture.content
    document = invoke(QUICK | {"response_format": "json"})
    assert document.json()["report"]["seed"] == QUICK["seed"]
    refused = invoke(QUICK | {"num_inference_steps": 500})
    assert (refused.status_code, refused.json()["error"]["problems"][0]["field"]) == (400, "num_inference_steps")
    with requests.post(f"{url}/invocations", json=QUICK | {"stream": True}, stream=True, timeout=SECONDS) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert b'"event": "progress"' in lines[0]
    assert b'"event": "result"' in lines[-1]

    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, 130)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/ping", timeout=5)


@pytest.mark.server
def test_an_archive_that_was_unpacked_into_the_folder_itself_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "ml" / "model"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / pack_echo(tmp_path, "1.0")) as archive:
        archive.extractall(folder)
    found = find_archive(folder, tmp_path)
    with Server(found.path.parent, token_auth=False, loaded=found) as server:
        server.wait_until_loaded()
        answer = requests.post(f"{server.url}/invocations", json={"body": "hello"}, timeout=60)
    assert (answer.status_code, answer.json()) == (200, "hello")


@pytest.mark.server
def test_a_worker_that_does_not_start_ends_the_command_with_its_reason(tmp_path: Path) -> None:
    pack_echo(tmp_path, "1.0", code="raise ValueError('no such weights')")
    found = find_archive(tmp_path, tmp_path)
    reason = pytest.raises(RuntimeError, match=r"(?s)echo 1\.0 .*no such weights")
    with Server(tmp_path, token_auth=False, loaded=found) as server, reason:
        server.wait_until_loaded()


def test_the_one_model_of_the_folder_is_found(tiny: Path, tmp_path: Path) -> None:
    store, work = tmp_path / "store", tmp_path / "work"
    archive = pack(tiny, out=store)
    assert find_archive(store, work).path == archive
    shutil.move(pack(tiny, out=tmp_path, archive_format="no-archive"), tmp_path / "unpacked" / "any")
    assert find_archive(tmp_path / "unpacked", work).path == tmp_path / "unpacked" / "any"
    shutil.copytree(tiny, tmp_path / "pairs" / "pair")
    for folder in (tiny, tmp_path / "pairs"):
        found = find_archive(folder, work)
        assert (found.name, found.path) == ("hybridstitch", work / "hybridstitch")
        shutil.rmtree(work)


def test_none_and_several_models_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"one archive \(\.mar\), or one unpacked.*nothing of them found"):
        find_archive(tmp_path, tmp_path)
    pack_echo(tmp_path, "1.0")
    shutil.copytree(tiny, tmp_path / "pair")
    with pytest.raises(InvalidInput, match=r"echo-1\.0\.mar, pair found"):
        find_archive(tmp_path, tmp_path)


def test_wrong_options_are_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        assert not is_free(port)
        given = ["--store", str(tmp_path / "none"), "--port", str(port), "--key-file", str(tmp_path / "keys.json")]
        given += ["--metrics-host", "0.0.0.0"]
        assert main(["serve", "--sagemaker", *given]) == 2
    said = capsys.readouterr().err
    expected = ("store: expected an existing", "port: expected a port that is free", "key-file:", "metrics-host:")
    assert all(word in said for word in expected)


def test_a_variable_that_is_neither_on_nor_off_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRIDSTITCH_SAGEMAKER", "yes")
    assert main(["serve"]) == 2
    assert "HYBRIDSTITCH_SAGEMAKER: expected one of: 0, false, 1, true, got 'yes'" in capsys.readouterr().err
