"""Packed and served with TorchServe's own tools, as the documentation shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from hybridstitch.base.paths import ROOT
from hybridstitch.serving.manifest import read_archive
from hybridstitch.serving.server.java_and_ports import choose_ports
from hybridstitch.serving.server.process import end_process, server_environment, short_temporary_folder
from tests.support.served import QUICK

SECONDS = 180


def commands() -> list[str]:
    """The lines of the documentation's section, each a whole command."""
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition("## By hand")[2].partition("\n## ")[0]
    block = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert len(block) == 1
    return block[0].replace("\\\n", " ").splitlines()


@pytest.mark.server
def test_the_documented_commands_make_an_archive_that_torchserve_serves(tiny: Path) -> None:
    *packing, serving = commands()
    with short_temporary_folder() as home_name:
        home = Path(home_name, "work")  # the archiver builds in the temporary folder, under the model's name
        (home / "models").mkdir(parents=True)
        for name, source in (
            ("models/emoji", tiny),
            ("hybridstitch", ROOT / "hybridstitch"),
            ("handler", ROOT / "handler"),
        ):
            (home / name).symlink_to(source)
        environment = server_environment(Path(home_name))
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        for command in packing:
            subprocess.run(command, shell=True, cwd=home, env=environment, check=True, capture_output=True)
        assert read_archive(home / "model_store" / "hybridstitch.mar").handler == "hybridstitch_handler.py"

        # Copied elsewhere, and changed in nothing but its ports.
        ports = choose_ports(0)
        settings = (ROOT / "config.properties").read_text()
        for old, name in (("8080", "inference"), ("8081", "management"), ("8082", "metrics")):
            settings = settings.replace(f"127.0.0.1:{old}", f"127.0.0.1:{ports[name]}")
        for name in ("grpc_inference", "grpc_management"):
            settings = re.sub(rf"{name}_port=\d+", f"{name}_port={ports[name]}", settings)
        (home / "config.properties").write_text(settings)
        (home / "handler").unlink()
        server = subprocess.Popen(
            serving.split(), cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{ports['inference']}/predictions/hybridstitch"
            answer = wait_for_answer(url, home / "key_file.json", server)
        finally:
            end_process(server)
    assert answer.headers["content-type"] == "image/png", answer.text


def wait_for_answer(url: str, keys: Path, server: subprocess.Popen[bytes]) -> requests.Response:
    """The answer of the model once it is loaded."""
    deadline = time.monotonic() + SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            token = json.loads(keys.read_text())["inference"]["key"]
            answer = requests.post(url, json=QUICK, headers={"Authorization": f"Bearer {token}"}, timeout=SECONDS)
        except (FileNotFoundError, ValueError, requests.ConnectionError):
            time.sleep(0.3)
            continue
        if answer.status_code not in (404, 503):  # not registered yet, no worker yet
            return answer
        time.sleep(0.3)
    pytest.fail("no answer")
