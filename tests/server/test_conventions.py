"""What users of TorchServe try: a server that they configure and start themselves, and a workflow around the model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from hybridstitch import Client, ServiceError
from hybridstitch.base.paths import ROOT
from hybridstitch.serving.server.java_and_ports import choose_ports
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.process import end_process, server_environment, short_temporary_folder
from tests.support.served import QUICK

SECONDS = 180
LIMIT = 100_000
"""The server's `max_response_size`. Eight small pictures as JSON are longer than what is left beside its headers."""


def workflow_files() -> dict[str, str]:
    """The files of the workflow as docs/serve.md shows them, by name."""
    section = (ROOT / "docs" / "serve.md").read_text().partition("## Workflows")[2].partition("\n## ")[0]
    blocks = [block.partition("\n```")[0] for block in section.split("```text\n")[1:]]
    return {block.partition("\n")[0].removeprefix("# "): block for block in blocks}


def write_workflow(path: Path) -> None:
    """Write the archive that `torch-workflow-archiver` makes of these files."""
    described = {"workflowName": path.stem, "specFile": "workflow.yaml", "handler": "functions.py"}
    manifest = {"createdOn": "01/01/2026 00:00:00", "archiverVersion": "0.2.15", "workflow": described}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
        for name, text in workflow_files().items():
            archive.writestr(name, text)


@pytest.fixture(scope="module")
def by_hand(tiny: Path) -> Iterator[tuple[Client, str]]:
    """A client of a TorchServe that a user configured, with an archive as `pack` writes it; its management address."""
    with short_temporary_folder() as home_name:
        home = Path(home_name)
        (home / "workflows").mkdir()
        pack(tiny, out=home / "models")
        write_workflow(home / "workflows" / "shout.war")
        ports = choose_ports(0)
        settings = {
            f"{name}_address": f"http://127.0.0.1:{ports[name]}" for name in ("inference", "management", "metrics")
        }
        settings |= {f"{name}_port": str(ports[name]) for name in ("grpc_inference", "grpc_management")}
        settings |= {"disable_token_authorization": "true", "enable_model_api": "true", "max_response_size": str(LIMIT)}
        (home / "own.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        command = [str(Path(sys.executable).with_name("torchserve")), "--start", "--foreground"]
        command += ["--ts-config", "own.properties", "--model-store", "models", "--workflow-store", "workflows"]
        command += ["--models", "hybridstitch=hybridstitch.mar"]
        with (home / "log").open("w") as log:
            environment = server_environment(home)
            server = subprocess.Popen(
                command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        urls = [f"http://127.0.0.1:{ports[name]}" for name in ("inference", "management")]
        try:
            with Client(urls[0], timeout=SECONDS, management_url=urls[1], environment=False) as client:
                wait_until_ready(client, server)
                yield client, urls[1]
        finally:
            end_process(server)


def wait_until_ready(client: Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            if any(worker["status"] == "READY" for worker in client.describe(customized=False)[0]["workers"]):
                return
        except ServiceError:  # it does not listen yet, or has not registered the model
            pass
        time.sleep(0.3)
    pytest.fail("no worker is ready")


@pytest.mark.server
def test_an_answer_over_the_servers_own_limit_ends_no_worker(by_hand: tuple[Client, str]) -> None:
    client, _ = by_hand
    described = client.describe()[0]["customizedMetadata"]
    assert described["max_response_bytes"] == LIMIT
    with pytest.raises(ServiceError) as refused:
        client.generate(**QUICK, num_images=8)
    assert (refused.value.status, refused.value.kind) == (500, "response_too_large")
    assert client.generate(**QUICK).image_bytes
    assert client.describe()[0]["customizedMetadata"]["process"] == described["process"]


@pytest.mark.server
def test_the_documented_workflow_serves_pictures_and_errors(by_hand: tuple[Client, str]) -> None:
    client, management = by_hand
    registered = requests.post(f"{management}/workflows?url=shout.war", timeout=SECONDS)
    assert registered.status_code == 200, registered.text

    def ask(**fields: Any) -> requests.Response:
        """An answer of the workflow. TorchServe sends each with status 200 and as JSON, whatever it is."""
        answer = requests.post(f"{client.url}/wfpredict/shout", json=QUICK | fields, timeout=SECONDS)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        return answer

    assert ask().content == client.generate(**QUICK | {"prompt": QUICK["prompt"].upper()}).image_bytes
    assert ask(response_format="json").json()["report"]["seed"] == QUICK["seed"]
    for fields, field in ({"num_inference_steps": 500}, "num_inference_steps"), ({"stream": True}, "stream"):
        (problem,) = ask(**fields).json()["error"]["problems"]
        assert problem["field"] == field
    assert yaml.safe_load(workflow_files()["workflow.yaml"])["dag"] == {"shout": ["stitched"]}
    assert requests.delete(f"{management}/workflows/shout", timeout=SECONDS).status_code == 200
