"""What may go wrong around a worker: nothing hangs, every accepted request is answered, and the next one works."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from hybridstitch.base.paths import ROOT
from hybridstitch.serving.client.protos import INFERENCE, methods
from hybridstitch.serving.client.replies import ServiceError
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from tests.support.served import QUICK

MODEL = "chaos"
QUEUE = 3
SLOW = QUICK | {"num_inference_steps": 50, "recipe": "large"}
RECOVERY_SECONDS = 15


@pytest.fixture(scope="module", autouse=True)
def chaos(server: Server, store: Path, emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A model of these tests' own, with a short queue and small answers."""
    config = tmp_path_factory.mktemp("chaos") / "config.yaml"
    limits = "handler: {max_response_bytes: 150000}"
    config.write_text(f"minWorkers: 1\nmaxWorkers: 1\njobQueueSize: {QUEUE}\nresponseTimeout: 60\n{limits}\n")
    pack(emoji, out=store, name=MODEL, config=config)
    server.register(MODEL)
    yield
    server.client.unregister(MODEL)


@pytest.fixture(autouse=True)
def works_again(server: Server, chaos: None) -> Iterator[None]:
    """After each test a good request succeeds in time."""
    yield
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            answer = post(server, QUICK, timeout=RECOVERY_SECONDS)
        except requests.RequestException as error:
            pytest.fail(f"a good request hung: {error}")
        if answer.status_code == 200 or time.monotonic() > deadline:
            break
        time.sleep(0.2)  # refused at once while the worker starts
    assert (answer.status_code, time.monotonic() < deadline) == (200, True)


def post(server: Server, body: dict[str, Any] | bytes, timeout: float = 60, **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {server.token()}", "Content-Type": "application/json"}
    data = body if isinstance(body, bytes) else json.dumps(body)
    return requests.post(f"{server.url}/predictions/{MODEL}", data=data, headers=headers, timeout=timeout, **options)


def pid(server: Server) -> int:
    return server.workers(MODEL)[0]["pid"]


def test_a_worker_that_is_killed_in_the_middle(server: Server) -> None:
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(post, server, SLOW)
        time.sleep(1)
        waiting = [pool.submit(post, server, QUICK | {"seed": seed}) for seed in (1, 2)]
        time.sleep(0.5)
        killed = pid(server)
        os.kill(killed, signal.SIGKILL)
        assert running.result().status_code >= 500
        assert [each.result().status_code for each in waiting] == [200, 200]
    assert pid(server) != killed


def test_a_queue_that_is_full(server: Server) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda seed: post(server, QUICK | {"seed": seed, "recipe": "large"}), range(12)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= QUEUE
    for seed, answer in enumerate(answers):
        if answer.ok:
            assert answer.headers["x-hybridstitch-seed"] == str(seed)
        else:
            assert answer.json()["type"] == "ServiceUnavailableException"


def test_a_request_that_is_too_large(server: Server) -> None:
    before = pid(server)
    assert post(server, QUICK | {"prompt": "x" * 300_000}).status_code == 413
    assert pid(server) == before


def test_an_answer_that_is_too_large(server: Server) -> None:
    before = pid(server)
    answer = post(server, QUICK | {"num_images": 8})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "response_too_large")
    assert pid(server) == before


def test_a_worker_knows_the_limit_of_its_server(server: Server) -> None:
    settings = (ROOT / "config.properties").read_text().splitlines()
    limits = [
        server.client.describe(model)[0]["customizedMetadata"]["max_response_bytes"]
        for model in ("hybridstitch", MODEL)
    ]
    assert f"max_response_size={limits[0]}" in settings
    assert limits[1] == 150000  # less, as its archive has it


def test_a_deadline_that_passes_in_the_queue(server: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(post, server, SLOW)
        time.sleep(0.5)
        with pytest.raises(ServiceError) as expired:
            server.client.generate(**QUICK, model=MODEL, deadline_ms=500)
        assert (expired.value.status, expired.value.kind) == (504, "deadline_exceeded")
        assert running.result().ok


def test_fifty_clients_that_go_away(server: Server) -> None:
    """Their requests keep the worker busy no longer than until their deadlines."""

    def leave(seed: int) -> bool:
        """Whether the server took the request, and then was left alone with it."""
        body = SLOW | {"seed": seed, "deadline_ms": 1500, "stream": seed % 2 == 0}
        try:
            with post(server, body, timeout=0.2, stream=True) as answer:
                return answer.ok
        except requests.Timeout:
            return True

    started = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        left = list(pool.map(leave, range(50)))
    assert sum(left) > QUEUE  # the others were told at once that the queue is full
    before = pid(server)
    while (answer := post(server, QUICK, timeout=RECOVERY_SECONDS)).status_code == 503:
        assert time.monotonic() - started < RECOVERY_SECONDS
    assert answer.ok
    assert pid(server) == before


@pytest.mark.parametrize("call", ["Predictions", "StreamPredictions"])
@pytest.mark.parametrize("body", [QUICK | {"stream": True}, QUICK, QUICK | {"seed": -1}])
def test_streams_over_grpc_are_refused_and_whole_answers_are_not(
    server: Server, call: str, body: dict[str, Any]
) -> None:
    """TorchServe's two ways to lose a worker: a stream that is answered whole, and a call that is streamed."""
    before = pid(server)
    if body == QUICK:
        assert [piece[:4] for piece in over_grpc(server, call, body)] == [b"\x89PNG"]
    else:
        with pytest.raises(grpc.RpcError) as refused:
            over_grpc(server, call, body)
        assert ("stream" if "stream" in body else "seed") in refused.value.details()
    assert pid(server) == before


def over_grpc(server: Server, call: str, body: dict[str, Any]) -> list[bytes]:
    """The pieces of the answer to a unary or a streaming call."""
    method = methods(INFERENCE)[call]
    message = method.request(model_name=MODEL, input={"data": json.dumps(body).encode()})
    options = {"timeout": 60, "metadata": [("authorization", f"Bearer {server.token()}")]}
    with grpc.insecure_channel(f"127.0.0.1:{server.ports['grpc_inference']}") as channel:
        kind = channel.unary_unary if call == "Predictions" else channel.unary_stream
        answer = kind(method.path, method.request.SerializeToString, method.response.FromString)(message, **options)
        return [piece.prediction for piece in ([answer] if call == "Predictions" else answer)]
