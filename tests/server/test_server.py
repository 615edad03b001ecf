"""Starting, registering and stopping the real TorchServe, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from hybridstitch.base.progress import waiting
from hybridstitch.cli.main import main
from hybridstitch.errors import InvalidInput
from hybridstitch.serving.client.client import ServiceError
from hybridstitch.serving.server.java_and_ports import is_free, ports_of
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from tests.support.archives import with_settings
from tests.support.served import QUICK

OWN_MASK = '''
import torch
from hybridstitch.masks import MaskStrategy


class LeftFirst(MaskStrategy):
    """Tokens from left to right."""

    type = "left-first"

    def scores(self, trajectory):
        rows, columns = trajectory.grid
        return -torch.arange(columns).repeat(rows).float().expand(trajectory.batch, -1)
'''


def test_a_mask_of_the_operators_own(server: Server, store: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "own_masks.py").write_text(OWN_MASK)
    config = tmp_path / "config.yaml"
    config.write_text("handler: {strategies: {masks: {left-first: 'own_masks:LeftFirst'}}}")
    pack(tiny, out=store, name="own", config=config, extra_modules=[tmp_path / "own_masks.py"])
    server.register("own")
    try:
        recipe = {"plan": {"type": "staged", "large": 0.5, "hybrid": 0.5, "share": 0.25}, "mask": "left-first"}
        report = server.client.generate(**QUICK, model="own", recipe=recipe).report
    finally:
        server.client.unregister("own")
    rows, columns = report["mask"]["grid"]
    assert report["mask"]["large_steps"] == [[[2] * (columns // 4) + [1] * (columns - columns // 4)] * rows]
    assert report["recipe"]["mask"] == {"type": "left-first"}


def test_a_failed_registration_says_why_and_leaves_nothing(server: Server, store: Path, tiny: Path) -> None:
    settings = "handler: {strategies: {masks: {mine: 'no_such_module:Mine'}}}"
    with_settings(pack(tiny, out=store, name="broken"), settings)
    for _ in range(2):  # the second would be refused if the first had stayed
        with pytest.raises(RuntimeError, match=r"strategies\.masks\.mine.*no_such_module"):
            server.register("broken")
    assert sorted(server.client.models()) == ["hybridstitch", "plain"]
    assert server.client.generate(**QUICK).seed == 7


def test_registering_twice_keeps_the_first(server: Server) -> None:
    pid = server.workers("plain")[0]["pid"]
    with pytest.raises(InvalidInput, match="version: expected one that is not registered for plain yet"):
        server.register("plain")
    assert server.workers("plain")[0]["pid"] == pid


def test_an_archive_from_outside_the_store_is_refused(server: Server, tiny: Path, tmp_path: Path) -> None:
    outside = pack(tiny, out=tmp_path, name="outside")
    for url in (str(outside), outside.as_uri(), f"../{tmp_path.name}/outside.mar", "nothing.mar"):
        with pytest.raises(ServiceError) as refused:
            server.client.register(url, "outside")
        assert refused.value.status in (400, 404)
    with pytest.raises(InvalidInput):
        server.register("a b/c")
    assert sorted(server.client.models()) == ["hybridstitch", "plain"]


def test_an_unpacked_folder_outside_the_store_is_taken_as_the_readme_warns(
    server: Server, tiny: Path, tmp_path: Path
) -> None:
    outside = pack(tiny, out=tmp_path, name="outside", archive_format="no-archive")
    server.client.register(str(outside), "outside")
    server.client.unregister("outside")


def test_a_port_that_is_taken_is_named_with_its_holder_and_a_free_one(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        held = f"taken: {port} \\(inference\\) by .*, process {os.getpid()}"
        with pytest.raises(InvalidInput, match=f"{held}.*got {port}") as refused, Server(tmp_path, port=port):
            pass
        assert main(["serve", "--store", str(tmp_path), "--port", str(port)]) == 2
    free = re.search(r"such as (\d+)", str(refused.value))
    assert free
    assert all(map(is_free, ports_of(int(free[1])).values()))
    assert re.search(held, capsys.readouterr().err)


def test_wrong_options_are_named_at_once_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["serve", "--store", str(tmp_path / "no"), "--port", "80", "--host", "203.0.113.1"]
    command += ["--metrics-host", "no host", "--key-file", str(tmp_path / "no" / "keys.json")]
    started = time.monotonic()
    assert main(command) == 2
    assert time.monotonic() - started < 10
    named = [line.split(":")[1].strip() for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert named == ["--store", "--port", "--host", "--metrics-host", "--key-file"]


ADDRESSES = ["file:///nothing/../x.mar", "file:///nothing/x.mar", "http://127.0.0.1:9/x.mar", "s3://x/x.mar", "x", ""]


def test_no_address_of_an_archive_is_allowed(server: Server) -> None:
    settings = dict(
        line.split("=", 1) for line in (server.home / "config.properties").read_text().splitlines() if "=" in line
    )
    headers = {"Authorization": f"Bearer {server.token('management')}"}
    for address in ADDRESSES:
        assert not re.fullmatch(settings["allowed_urls"], address)
        for api in ("models", "workflows") if address.startswith(("file:", "http:")) else ():
            query = {"url": address, "model_name": "x", "workflow_name": "x"}
            answer = requests.post(f"{server.management_url}/{api}", params=query, headers=headers, timeout=60)
            assert not answer.ok
            is_refused_elsewhere = api == "models" and ".." in address
            assert is_refused_elsewhere or "does not match any allowed URL" in answer.text


def test_one_client_serves_the_server_and_takes_nothing_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.client is server.client
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN", "stale")
    monkeypatch.setenv("HYBRIDSTITCH_KEY_FILE", "/nowhere")
    monkeypatch.setattr(server, "_client", None)
    assert server.client.health()
    assert "plain" in server.client.models()


def test_a_long_wait_says_every_ten_seconds_how_long_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("hybridstitch.base.progress.WAITING_SECONDS", 0.05)
    monkeypatch.setattr("hybridstitch.base.progress.say", lines.append)
    with waiting("loading"):
        time.sleep(0.3)
    said = len(lines)
    time.sleep(0.2)
    assert len(lines) == said >= 3
    assert lines[0] == "loading …"
    assert all(re.fullmatch(r"loading: \d+ s", line) for line in lines[1:])
    with waiting("loading", lambda: "load the models"):
        time.sleep(0.1)
    assert lines[-1] == "loading: 0 s, now: load the models"


def test_the_step_of_a_worker_that_starts(server: Server) -> None:
    assert re.fullmatch(r"import the libraries of explanations took .* s|generate a first picture .* s", server.step())


@pytest.mark.server
def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    server = Server(tmp_path, host="203.0.113.1")  # an address for documentation, which no machine has
    with pytest.raises(RuntimeError, match=r"(?s)TorchServe ended .* log:.*"), server:
        pass
    assert not server.home.exists()


@pytest.mark.server
def test_the_command_serves_what_it_can_until_it_is_told_to_stop(tiny: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for version in ("10.0", "1.0"):
        pack(tiny, out=store, name="m", version=version, archive_format="no-archive")
    failing = with_settings(pack(tiny, out=store, name="failing"), "handler: {dtype: int3}")
    (store / "cut.mar").write_bytes(failing.read_bytes()[:1000])
    command = [
        sys.executable,
        "-m",
        "hybridstitch.cli.main",
        "serve",
        "--store",
        str(store),
        "--port",
        "0",
        "--no-auth",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        urls = [line.split()[-1] for line in lines if line.startswith("ready: ")]
        for url in urls:
            assert requests.post(url, json=QUICK, timeout=120).headers["content-type"] == "image/png"
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read()
        assert process.wait(60) == 0
    assert [url.partition("/predictions/")[2] for url in urls] == ["m", "m/1.0", "m/10.0"]
    assert "error: cut.mar is not served" in errors
    assert re.search(r"warning: --no-auth: .*page in a browser.* register code", errors)
    steps = [line for line in errors.splitlines() if line.endswith(" …")]
    assert (steps[0], steps[-1]) == ("starting TorchServe …", "ending TorchServe and its workers …")
    registering = [step for step in steps if step.startswith("registering ")]
    assert len(registering) == 3
    assert re.search(r"its worker loads \d+ MiB …$", registering[-1])
    assert "error: failing 1.0 (failing.mar) is not served" in errors
    assert len(children) >= 4  # the launcher, Java and two workers
    assert not [child for child in children if child.is_running()]


@pytest.mark.server
def test_stopping_removes_every_file_and_process(tmp_path: Path) -> None:
    started = time.monotonic()
    with Server(tmp_path) as server:
        processes = psutil.Process(server._process.pid).children(recursive=True)
        assert json.loads(server.key_file.read_text()).keys() == {"management", "inference", "API"}
        assert server.key_file.stat().st_mode & 0o077 == 0
        assert server.client.health()
    assert processes
    assert not [process for process in processes if process.is_running()]
    assert not server.home.exists()
    server.stop()  # a second time does nothing
    assert time.monotonic() - started < 60
