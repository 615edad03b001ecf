"""Starting, registering and stopping the real TorchServe, and what it leaves behind: nothing."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests

from hybridstitch.errors import InvalidInput
from hybridstitch.serving.archive import pack
from hybridstitch.serving.client import ServiceError
from hybridstitch.serving.server import Server
from tests.server.broken import with_settings
from tests.server.conftest import QUICK

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


def test_a_port_that_is_taken_is_named(store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=str(port)), Server(store, port=port):
            pass


def test_a_server_that_cannot_start_shows_its_log(store: Path) -> None:
    server = Server(store, host="203.0.113.1")  # an address for documentation, which no machine has
    with pytest.raises(RuntimeError, match=r"(?s)TorchServe ended .* log:.*"), server:
        pass
    assert not server.home.exists()


def test_the_command_serves_what_it_can_until_it_is_told_to_stop(tiny: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for version in ("10.0", "1.0"):
        pack(tiny, out=store, name="m", version=version, archive_format="no-archive")
    failing = with_settings(pack(tiny, out=store, name="failing"), "handler: {dtype: int3}")
    (store / "cut.mar").write_bytes(failing.read_bytes()[:1000])
    command = [sys.executable, "-m", "hybridstitch.cli", "serve", "--store", str(store), "--port", "0", "--no-auth"]
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
    assert "error: failing 1.0 (failing.mar) is not served" in errors
    assert len(children) >= 4  # the launcher, Java and two workers
    assert not [child for child in children if child.is_running()]


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
