"""Unloading a version: every request that it accepted is answered, or the version stays and the caller hears why."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hybridstitch import Client, InvalidInput, ServiceError
from hybridstitch.serving.server.pack import pack
from tests.support.archives import pack_echo
from tests.support.http_server import fixed, serving
from tests.support.served import QUICK, Connect

both = pytest.mark.parametrize("transport", ["http", "grpc"])


def waiting(client: Client, version: str) -> int:
    return client.describe(version, customized=False)[0]["jobQueueStatus"]["pendingRequests"]


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Return as soon as the condition holds; fail after this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def accepted(client: Client, version: str, requests: list[Future[Any]], working: int) -> None:
    """Return when the server holds all requests: `working` of them in its workers, the others in its queue."""
    wait_until(lambda: waiting(client, version) >= len(requests) - working)
    assert not any(request.done() for request in requests)


def test_a_change_of_versions_answers_every_picture_that_was_accepted(client: Client, store: Path, tiny: Path) -> None:
    archives = [pack(tiny, out=store, name="changing", version=version).name for version in ("1.0", "2.0")]
    try:
        for archive in archives:
            client.register(archive, "changing")
        slow = QUICK | {"num_inference_steps": 40, "recipe": "large", "num_images": 2}
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(client.generate, **slow, model="changing") for _ in range(6)]
            accepted(client, "changing/1.0", answers, working=1)
            client.set_default("changing", "2.0")
            client.unregister("changing", "1.0")
            assert all(answer.done() for answer in answers)
            assert len({answer.result().image_bytes for answer in answers}) == 1
        (left,) = client.describe("changing/all", customized=False)
        assert left["modelVersion"] == "2.0"
    finally:
        if len(client.describe("changing/all", customized=False)) > 1:  # a failure leaves nothing to others
            client.set_default("changing", "2.0")
            client.unregister("changing", "1.0")
        client.unregister("changing")
    assert "changing" not in client.models()


@both
def test_a_version_goes_when_its_last_worker_is_idle(
    connect: Connect, client: Client, store: Path, transport: str
) -> None:
    by = connect(transport)
    client.register(pack_echo(store, "1.0"), "draining")
    try:
        by.scale("draining", 2)
        with ThreadPoolExecutor(5) as pool:
            answers = [pool.submit(client.predict, {"sleep": seconds}, "draining") for seconds in (2.5, 0.3, 0.3)]
            accepted(client, "draining", answers, working=2)
            with pytest.raises(ServiceError, match=r"draining/1\.0 still has .* timeout=0") as busy:
                by.unregister("draining", timeout=0.2)
            assert busy.value.kind == "still_at_work"
            assert client.predict({}, "draining").json()["version"] == "1.0"  # it stayed as it was
            by.unregister("draining")
            assert all(answer.done() for answer in answers)
            assert [answer.result().json()["version"] for answer in answers] == ["1.0"] * 3
    finally:
        if "draining" in client.models():
            client.unregister("draining", timeout=0)
    assert "draining" not in client.models()


@both
def test_the_default_version_is_refused_at_once_and_no_wait_drops_what_waits(
    connect: Connect, client: Client, store: Path, tmp_path: Path, transport: str
) -> None:
    by, begun = connect(transport), tmp_path / "begun"
    for version in ("1.0", "2.0"):
        client.register(pack_echo(store, version), "leaving")
    try:
        with ThreadPoolExecutor(1) as pool:
            slow = {"begun": str(begun), "sleep": 1}
            answer = pool.submit(connect("http", timeout=2).predict, slow, "leaving")
            wait_until(begun.exists)
            for version in (None, "1.0"):
                with pytest.raises(ServiceError) as refused:
                    by.unregister("leaving", version)
                assert refused.value.status == 403
            assert not answer.done()
            by.set_default("leaving", "2.0")
            by.unregister("leaving", "1.0", timeout=0)
            with pytest.raises(ServiceError):  # TorchServe says nothing to it, or that its worker ended
                answer.result()
    finally:
        for each in client.describe("leaving/all", customized=False):
            client.unregister("leaving", None if each["modelVersion"] == "2.0" else each["modelVersion"], timeout=0)


@pytest.mark.parametrize("refused", ["no workers", "unregister"])
def test_a_version_that_cannot_be_unloaded_has_its_workers_again(refused: str) -> None:
    """A server that is slow to end the workers, or refuses to unload: not left without workers."""
    wanted: list[int] = []
    version = {"modelVersion": "1.0", "minWorkers": 2, "workers": [], "jobQueueStatus": {"pendingRequests": 0}}

    def answer(handler: Any) -> None:
        if handler.command == "PUT":
            wanted.append(int(parse_qs(urlsplit(handler.path).query)["min_worker"][0]))
            if refused == "no workers" and wanted[-1] == 0:
                time.sleep(2)
        is_refused = handler.command == "DELETE" and refused == "unregister"
        fixed(500 if is_refused else 200, [version] if handler.command == "GET" else {"status": "done"})(handler)

    with serving(answer) as url, Client(url, "token", 5, url, "token") as client, pytest.raises(ServiceError):
        client.unregister("a", timeout=0.5)
    assert wanted == [0, 2]


def test_an_impossible_limit_is_refused(client: Client) -> None:
    for timeout in (-1, float("nan"), float("inf"), None):
        with pytest.raises(InvalidInput, match="timeout"):
            client.unregister("plain", timeout=timeout)
