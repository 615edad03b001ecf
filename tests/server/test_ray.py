"""Ray Serve with two replicas of the embedded pair, beside TorchServe: the same requests and the same answers."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import requests
import yaml

from hybridstitch.serving.client.client import Client, ServiceError
from hybridstitch.serving.manifest import read_archive
from hybridstitch.serving.ray.server import RayServer
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from tests.support.handlers import CONFIG
from tests.support.served import QUICK

pytestmark = [pytest.mark.slow, pytest.mark.server]

NAMED = QUICK | {"request_id": "r-1"}
REQUESTS: dict[str, dict[str, Any]] = {
    "the default recipe": NAMED,
    "a mask": NAMED | {"num_inference_steps": 6, "recipe": "hybridstitch"},
    "two pictures": NAMED | {"num_images": 2, "response_format": "json"},
    "jpeg": NAMED | {"output_format": "jpeg", "speed": 2},
}
LONG = NAMED | {"num_inference_steps": 14, "recipe": "large"}


@pytest.fixture(scope="module")
def on_ray(emoji: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServer]:
    """Two replicas of the pair that TorchServe serves, and one of a toy pair with batches. The last test stops them."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = tmp_path_factory.mktemp("ray")
    (folder / "two.yaml").write_text(yaml.safe_dump(CONFIG | {"minWorkers": 2, "maxWorkers": 2}))
    (folder / "batches.yaml").write_text(yaml.safe_dump(CONFIG | {"batchSize": 3, "maxBatchDelay": 2000}))
    packed = pack(emoji, out=folder, config=folder / "two.yaml")
    batched = pack(tiny, out=folder, name="batched", config=folder / "batches.yaml", archive_format="no-archive")
    with RayServer([read_archive(packed), read_archive(batched)]) as server:
        yield server


def post(server: Any, body: Any, path: str = "predictions/hybridstitch", **options: Any) -> requests.Response:
    given = {"json": body} | options
    headers = {"Authorization": f"Bearer {server.token()}"} | given.pop("headers", {})
    return requests.post(f"{server.url}/{path}", headers=headers, timeout=120, **given)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_picture_has_the_bytes_of_torchserves(on_ray: RayServer, server: Server, name: str) -> None:
    ours, theirs = (post(each, REQUESTS[name]) for each in (on_ray, server))
    assert (ours.status_code, theirs.status_code) == (200, 200)
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    if "json" in ours.headers["content-type"]:
        assert [each.json()["data"] for each in (ours, theirs)] == [theirs.json()["data"]] * 2
    else:
        assert ours.content == theirs.content
    described = "x-hybridstitch-"
    names = {each for each in theirs.headers if each.startswith(described)}
    assert {each for each in ours.headers if each.startswith(described)} == names
    assert ours.headers[f"{described}recipe"] == theirs.headers[f"{described}recipe"]


@pytest.mark.parametrize(
    "options",
    [
        {"data": {"prompt": NAMED["prompt"], "seed": "7", "num_inference_steps": "2", "request_id": "r-1"}},
        {"files": {name: (None, str(value)) for name, value in NAMED.items()}},
        {"data": json.dumps(NAMED), "headers": {"Content-Type": "text/plain"}},
        {"json": NAMED, "params": {"seed": "3"}},
    ],
    ids=["form", "parts", "text", "a query, which does nothing"],
)
def test_other_bodies_are_read_as_torchserve_does(on_ray: RayServer, server: Server, options: dict[str, Any]) -> None:
    ours, theirs = (post(each, None, **options) for each in (on_ray, server))
    assert ours.status_code == 200
    assert ours.content == theirs.content


@pytest.mark.parametrize(
    "options",
    [
        {"json": {"prompt": "", "seed": -1}},
        {"json": NAMED | {"recipe": "fastest"}},
        {"data": b"{", "headers": {"Content-Type": "application/json"}},
        {"data": b"\x89PNG", "headers": {"Content-Type": "image/png"}},
    ],
    ids=["fields", "recipe", "JSON", "picture"],
)
def test_a_wrong_request_gets_torchserves_answer(on_ray: RayServer, server: Server, options: dict[str, Any]) -> None:
    ours, theirs = (post(each, None, **options) for each in (on_ray, server))
    assert (ours.status_code, theirs.status_code) == (400, 400)
    found = ours.json()
    found["error"].pop("request_id")  # Ray names each request
    expected = theirs.json()
    expected["error"].pop("request_id", None)
    assert found == expected


def test_without_the_token_nothing_is_answered_but_a_ping(on_ray: RayServer) -> None:
    assert requests.get(f"{on_ray.url}/ping", timeout=30).json() == {"status": "Healthy"}
    for token in ("", "Bearer wrong", f"Bearer {on_ray.token('management')}"):
        answer = post(on_ray, NAMED, headers={"Authorization": token})
        assert (answer.status_code, answer.json()["type"]) == (401, "InvalidKeyException")
    inference = {"Authorization": f"Bearer {on_ray.token()}"}
    for path in ("models", "models/hybridstitch", "metrics"):
        assert requests.get(f"{on_ray.url}/{path}", headers=inference, timeout=30).status_code == 401
    with Client(on_ray.url, "wrong", environment=False) as client, pytest.raises(ServiceError) as refused:
        client.generate(**NAMED)
    assert refused.value.kind == "InvalidKeyException"
    assert (on_ray.key_file.stat().st_mode & 0o777) == 0o600


def test_what_is_not_served_is_named(on_ray: RayServer) -> None:
    for path, kind in {
        "predictions/other": "ModelNotFoundException",
        "predictions/hybridstitch/9.9": "ModelVersionNotFoundException",
        "elsewhere": "ResourceNotFoundException",
    }.items():
        answer = post(on_ray, NAMED, path)
        assert (answer.status_code, answer.json()["type"]) == (404, kind)
    below = post(on_ray, NAMED, "predictions/hybridstitch/1.0/v9/pictures")
    assert (below.status_code, below.json()["error"]["type"]) == (404, "not_found")
    too_long = post(on_ray, NAMED | {"prompt": "x" * 300_000})
    assert (too_long.status_code, too_long.json()["type"]) == (413, "RequestEntityTooLargeException")


def test_a_stream_has_torchserves_events_while_the_picture_is_generated(on_ray: RayServer, server: Server) -> None:
    body = LONG | {"stream": True, "previews": 2, "num_inference_steps": 50}
    found = []
    for each in (on_ray, server):
        started = time.monotonic()
        with post(each, body, stream=True) as answer:
            assert answer.headers["content-type"] == "application/x-ndjson"
            events = [(time.monotonic() - started, json.loads(line)) for line in answer.iter_lines()]
        assert events[0][0] < events[-1][0] / 2
        found.append(
            [{k: v for k, v in event.items() if k in ("event", "step", "image", "data")} for _, event in events]
        )
    assert found[0] == found[1]
    assert [event["event"] for event in found[0]][-1] == "result"


def test_a_description_is_torchserves(on_ray: RayServer, server: Server) -> None:
    (ours,), (theirs,) = (each.client.describe() for each in (on_ray, server))
    assert (ours["modelName"], ours["modelVersion"], ours["minWorkers"]) == ("hybridstitch", "1.0", 2)
    found, expected = ours["customizedMetadata"], theirs["customizedMetadata"]
    for name in ("request_schema", "explanation_schema", "defaults", "pair", "limits", "recipes"):
        assert found[name] == expected[name]
    assert "ray" in found["versions"]
    assert "torchserve" not in found["versions"]
    assert on_ray.client.models() == ["hybridstitch", "batched"]


def test_requests_that_wait_share_a_forward(on_ray: RayServer) -> None:
    body = QUICK | {"response_format": "json", "recipe": "large"}
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda seed: post(on_ray, body | {"seed": seed}, "predictions/batched"), range(3)))
    assert [answer.json()["report"]["batch_size"] for answer in answers] == [3, 3, 3]
    (described,) = on_ray.client.describe("batched", customized=False)
    assert (described["batchSize"], described["maxBatchDelay"], described["minWorkers"]) == (3, 2000, 1)


def test_an_explanation_is_torchserves(on_ray: RayServer, server: Server) -> None:
    asked: dict[str, Any] = {"prompt": "red apple", "seed": 7, "num_inference_steps": 2, "target": "image"}
    ours, theirs = (each.client.explain(**asked, timeout=120) for each in (on_ray, server))
    assert ours["words"] == theirs["words"]


def test_openais_client_generates_at_the_root(on_ray: RayServer) -> None:
    client = openai.OpenAI(base_url=f"{on_ray.url}/v1", api_key=on_ray.token(), max_retries=0)
    assert [model.id for model in client.models.list()] == ["hybridstitch", "batched"]
    more = {"seed": 7, "num_inference_steps": 2, "request_id": "r-1"}
    answer = client.images.generate(model="hybridstitch", prompt=QUICK["prompt"], extra_body=more)
    document = post(on_ray, NAMED | {"response_format": "json"}).json()
    assert answer.data[0].b64_json == document["data"][0]["b64_json"]
    stream = client.images.generate(model="other", prompt="x", stream=True, partial_images=2, extra_body=more)
    assert [event.type.rpartition(".")[2] for event in stream] == ["partial_image", "completed"]
    with pytest.raises(openai.BadRequestError, match="seed"):
        client.images.generate(prompt="x", extra_body={"seed": -1})
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").images.generate(model="hybridstitch", prompt="x")


def test_metrics_have_torchserves_names(on_ray: RayServer) -> None:
    def scraped() -> dict[str, float]:
        headers = {"Authorization": f"Bearer {on_ray.token('management')}"}
        lines = requests.get(f"{on_ray.url}/metrics", headers=headers, timeout=30).text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    labels = 'Model="hybridstitch",Version="1.0",Kind="prediction",Recipe="small",Outcome="ok"'
    before = scraped().get(f"HybridStitchRequests{{{labels}}}", 0)
    report = on_ray.client.generate(**QUICK, recipe="small").report
    found = _wait_for(lambda: (s := scraped()).get(f"HybridStitchRequests{{{labels}}}", 0) > before and s)
    assert found[f"HybridStitchRequests{{{labels}}}"] == before + 1
    one = 'Model="hybridstitch",Version="1.0",Recipe="small"'
    assert found[f"HybridStitchDenoiseSeconds_sum{{{one}}}"] >= report["timing_ms"]["denoise"] / 1000 - 1e-6
    assert found[f'HybridStitchDenoiseSeconds_bucket{{{one},le="+Inf"}}'] == before + 1
    assert found['HybridStitchBatchSize_count{Model="hybridstitch",Version="1.0"}'] >= 1


def test_a_killed_replica_loses_its_own_request_alone(on_ray: RayServer) -> None:
    expected = post(on_ray, LONG)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(post, on_ray, LONG) for _ in range(6)]
        time.sleep(0.4)
        os.kill(int(expected.headers["x-hybridstitch-worker"]), signal.SIGKILL)
        found = [answer.result() for answer in answers]
    lost = [answer for answer in found if answer.status_code != 200]
    assert len(lost) <= 1
    assert all((answer.status_code, answer.json()["type"]) == (503, "worker_lost") for answer in lost)
    assert all(answer.content == expected.content for answer in found if answer.status_code == 200)


def test_it_listens_on_this_machine_alone_and_its_end_answers_what_is_at_work(on_ray: RayServer) -> None:
    family = [process for process in psutil.Process().children(recursive=True) if _is_of(process, on_ray)]
    assert {each.name() for each in family} >= {"raylet", "gcs_server"}
    addresses = {
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    with ThreadPoolExecutor(1) as pool:
        with post(on_ray, LONG | {"stream": True}, stream=True) as at_work:
            lines = at_work.iter_lines()
            assert json.loads(next(lines))["event"] == "progress"
            stopped = pool.submit(on_ray.stop)
            assert json.loads([*lines][-1])["event"] == "result"
        stopped.result()
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert (len(gone), alive) == (len(family), [])
    assert not on_ray.home.exists()


def _is_of(process: psutil.Process, server: RayServer) -> bool:
    """Whether a process runs for a server: all have its session."""
    try:
        return os.getsid(process.pid) == server.pid
    except ProcessLookupError:
        return False


def _wait_for(find: Any) -> Any:
    deadline = time.monotonic() + 10
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found
