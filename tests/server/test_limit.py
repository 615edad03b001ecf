"""No request keeps the worker longer than `responseTimeout`, after which TorchServe would kill it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import requests

from hybridstitch import HybridStitchPipeline
from hybridstitch.serving.config import response_timeout
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from hybridstitch.serving.worker.limit import TimeLimit
from hybridstitch.wire.names import STREAM_TYPE
from tests.support.served import QUICK

MODEL = "limited"
SECONDS = 4
QUEUE = 2
LARGEST = {"prompt": "apple " * 64, "num_inference_steps": 100, "width": 128, "height": 128, "guidance_scale": 20}
MOST_EXPLAINED = LARGEST | {"steps_explained": 100, "gradient_steps": 256}
COSTLIEST: dict[str, tuple[str, dict[str, Any]]] = {
    "prediction": ("predictions", LARGEST | {"num_images": 8, "recipe": "large", "deadline_ms": 3_600_000}),
    "both models": ("predictions", LARGEST | {"num_images": 8, "recipe": "mdd"}),
    "stream": ("predictions", LARGEST | {"num_images": 2, "stream": True, "previews": 8, "recipe": "large"}),
    "ablation": ("explanations", MOST_EXPLAINED | {"target": "image", "recipe": "large"}),
    "mask": ("explanations", MOST_EXPLAINED | {"target": "mask", "recipe": "ras"}),
    "gradients": ("explanations", MOST_EXPLAINED | {"target": "image", "method": "integrated_gradients"}),
}
BATCHES = [["stream"], ["prediction", "gradients"], ["both models", "ablation", "mask"]]


@pytest.fixture(scope="module")
def limited(server: Server, store: Path, emoji: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded pair with little time, and batches of up to three requests."""
    config = tmp_path_factory.mktemp("limited") / "config.yaml"
    lines = ["minWorkers: 1", "maxWorkers: 1", "batchSize: 3", "maxBatchDelay: 200", f"responseTimeout: {SECONDS}"]
    config.write_text("\n".join([*lines, f"jobQueueSize: {QUEUE}"]))
    pack(emoji, out=store, name=MODEL, config=config)
    server.register(MODEL)
    yield MODEL
    server.client.unregister(MODEL)


def post(server: Server, kind: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and error of an answer; of a stream that has begun, the error of its last event and 504."""
    headers = {"Authorization": f"Bearer {server.token()}"}
    answer = requests.post(f"{server.url}/{kind}/{MODEL}", json=body, headers=headers, timeout=60)
    if answer.headers.get("content-type") == STREAM_TYPE:
        last = json.loads(answer.text.splitlines()[-1])
        assert last["event"] == "error"
        return 504, last["error"]
    return answer.status_code, {} if answer.ok else answer.json().get("error", {})


def post_once_there_is_room(server: Server, kind: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """As `post`; a request that the full queue refuses is sent again."""
    while (answer := post(server, kind, body))[0] == 503:
        time.sleep(0.05)
    return answer


@pytest.mark.parametrize("names", BATCHES, ids=str)
def test_the_costliest_requests_end_in_time_and_the_next_one_is_answered(
    server: Server, limited: str, names: list[str]
) -> None:
    before = server.workers(limited)[0]["pid"]
    with ThreadPoolExecutor(len(names) + 1) as pool:
        costly = [pool.submit(post_once_there_is_room, server, *COSTLIEST[name]) for name in names]
        time.sleep(0.5)
        behind = pool.submit(post_once_there_is_room, server, "predictions", QUICK)
        for name, each in zip(names, costly, strict=True):
            status, error = each.result()
            assert (status, error["type"]) == (504, "deadline_exceeded"), name
            assert "responseTimeout" in error["message"]
        assert behind.result()[0] == 200
    assert server.workers(limited)[0]["pid"] == before


def test_clients_that_leave_keep_the_worker_no_longer_than_the_limit_of_each_that_is_queued(
    server: Server, limited: str
) -> None:
    """None of them sets a deadline, or says when it sent its request."""
    abandoned = COSTLIEST["both models"][1]

    def leave(_: int) -> None:
        with suppress(requests.Timeout):
            headers = {"Authorization": f"Bearer {server.token()}"}
            requests.post(f"{server.url}/predictions/{MODEL}", json=abandoned, headers=headers, timeout=0.2)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(leave, range(12)))
    started = time.monotonic()
    post_once_there_is_room(server, "predictions", QUICK)
    assert time.monotonic() - started < (1 + QUEUE) * SECONDS


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ({"responseTimeout": 7}, 7),
        ({"responseTimeout": 0}, 120),
        ({"responseTimeout": "7"}, 120),
        ({}, 120),
        (None, 120),
    ],
)
def test_the_limit_is_what_torchserve_takes_from_the_archive(config: Any, seconds: int) -> None:
    assert response_timeout(config) == seconds


def test_nothing_inside_of_a_transformers_layer_is_watched(tiny_pipe: HybridStitchPipeline) -> None:
    """`torch.compile` would make graphs of the hooks there, and a first request new ones."""
    transformer = deepcopy(tiny_pipe.large)
    TimeLimit(60).watch([transformer])
    watched = [name for name, module in transformer.named_modules() if module._forward_hooks]
    assert watched == [f"transformer_blocks.{layer}" for layer in range(transformer.config.num_layers)]
