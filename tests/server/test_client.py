"""The client over HTTP and gRPC on the real server: the same answers, errors and limits on both."""

from __future__ import annotations

import json
import math
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridstitch import Client, InvalidInput, ServiceError, ServiceTimeout, ServiceUnreachable
from hybridstitch.serving.client.replies import Result
from hybridstitch.serving.server.server import Server
from tests.support.archives import pack_echo
from tests.support.served import QUICK, Connect

both = pytest.mark.parametrize("transport", ["http", "grpc"])


def test_both_transports_bring_the_same_picture(connect: Connect) -> None:
    http, grpc = (connect(transport).generate(**QUICK) for transport in ("http", "grpc"))
    assert np.array_equal(http.image, grpc.image)
    assert http.seed == grpc.seed == 7
    assert http.report["recipe"] == grpc.report["recipe"]
    assert http.warnings == grpc.warnings == tuple(http.report["warnings"])
    assert [image.size for image in grpc.images] == [(128, 128)]


@both
def test_an_error_carries_all_problems(connect: Connect, transport: str) -> None:
    with pytest.raises(ServiceError, match=r"(?s)width.*seed|seed.*width") as refused:
        connect(transport).generate("red apple", width=3, seed=-1)
    error = refused.value
    assert (error.status, error.kind) == (400, "invalid_request")
    got = {problem["field"]: problem["got"] for problem in error.problems}
    assert got == {"width": 3, "seed": -1}
    assert all(problem["expected"] for problem in error.problems)


@both
def test_an_unknown_model_is_not_found(connect: Connect, transport: str) -> None:
    client = connect(transport)
    for model, kind in (("nothing", "ModelNotFoundException"), ("plain/9.9", "ModelVersionNotFoundException")):
        for ask in (client.predict, lambda payload, model: client.describe(model)):
            with pytest.raises(ServiceError) as refused:
                ask(QUICK, model)
            assert (refused.value.status, refused.value.kind) == (404, kind)


@both
def test_generate_many_loses_nothing(connect: Connect, transport: str) -> None:
    requests = ["red apple", {"prompt": "blue car", "seed": 3}, {"prompt": "red apple", "width": 3}, {"prompt": {1, 2}}]
    answers = connect(transport).generate_many(requests, num_inference_steps=1, seed=5)
    first, second, refused, unsent = answers
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert (first.seed, second.seed) == (5, 3)
    assert isinstance(refused, ServiceError)
    assert [problem["field"] for problem in refused.problems] == ["width"]
    assert isinstance(unsent, InvalidInput)
    with pytest.raises(InvalidInput, match="concurrency"):
        connect(transport).generate_many(requests, concurrency=0)


@both
def test_versions_are_registered_scaled_flipped_and_unloaded(connect: Connect, store: Path, transport: str) -> None:
    client = connect(transport)
    first, second = (pack_echo(store, version) for version in ("1.0", "2.0"))
    client.register(first, "pair", batch_size=2, max_batch_delay_ms=30)
    try:
        (described,) = client.describe("pair", customized=False)
        assert (described["batchSize"], described["maxBatchDelay"]) == (2, 30)
        client.register(second, "pair")
        assert client.predict({}, "pair").json()["version"] == "1.0"
        client.set_default("pair", "2.0")
        assert [client.predict({}, f"pair{version}").json()["version"] for version in ("", "/1.0")] == ["2.0", "1.0"]
        client.scale("pair", 2, version="1.0")
        states = {
            each["modelVersion"]: [worker["status"] for worker in each["workers"]]
            for each in client.describe("pair/all", customized=False)
        }
        assert states == {"1.0": ["READY", "READY"], "2.0": ["READY"]}
        with pytest.raises(ServiceError) as twice:
            client.register(first, "pair")
        assert (twice.value.status, twice.value.kind) == (409, "ConflictStatusException")
        with pytest.raises(ServiceError) as not_last:
            client.unregister("pair")
        assert (not_last.value.status, not_last.value.kind) == (403, "InvalidModelVersionException")
    finally:
        client.unregister("pair", "1.0")
        client.unregister("pair")
    assert "pair" not in client.models()


@both
def test_a_registration_gives_as_many_workers_as_it_asks_for(connect: Connect, store: Path, transport: str) -> None:
    client = connect(transport)
    archive = pack_echo(store, "1.0", config="minWorkers: 1\nmaxWorkers: 1\n")
    for asked, workers in ((2, 2), (None, 1)):
        client.register(archive, "several", initial_workers=asked)
        try:
            (described,) = client.describe("several", customized=False)
            assert [worker["status"] for worker in described["workers"]] == ["READY"] * workers
        finally:
            client.unregister("several")


@pytest.mark.parametrize(
    ("path", "model", "version"), [("echo", None, "1.0"), ("echo/1.0", None, "1.0"), ("plain", "echo", "1.0")]
)
def test_an_address_as_serve_prints_it_names_the_model(
    connect: Connect, server: Server, echo: str, path: str, model: str | None, version: str
) -> None:
    for call in ("predictions", "explanations"):
        client = connect("http", url=f"{server.url}/{call}/{path}")
        assert client.predict({}, model).json()["version"] == version
        assert client.health()


@both
def test_a_registration_that_fails_leaves_nothing(connect: Connect, store: Path, transport: str) -> None:
    broken = pack_echo(store, "0.1", code="raise RuntimeError('cannot start')")
    client = connect(transport)
    with pytest.raises(ServiceError) as failed:
        client.register(broken, "broken")
    assert failed.value.status == 500
    assert "broken" not in client.models()


@both
def test_numbers_that_make_no_sense_are_refused_before_they_are_sent(connect: Connect, transport: str) -> None:
    client = connect(transport)
    with pytest.raises(InvalidInput) as refused:
        client.register("plain.mar", "other", batch_size=0, initial_workers=-1)
    assert [problem.field for problem in refused.value.problems] == ["batch_size", "initial_workers"]
    with pytest.raises(InvalidInput, match="workers"):
        client.scale("plain", -1)
    with pytest.raises(InvalidInput, match="management_url"):
        connect(transport, management_url=None).models()
    for timeout in (0, math.inf, None):
        with pytest.raises(InvalidInput, match="timeout"):
            connect(transport, timeout=timeout)


def test_urls_and_transports_are_checked() -> None:
    with pytest.raises(InvalidInput, match="transport"):
        Client("http://127.0.0.1:8080", transport="carrier pigeon")
    for transport, url in (("http", "127.0.0.1:8080"), ("grpc", "127.0.0.1"), ("grpc", "http://127.0.0.1:80/path")):
        with pytest.raises(InvalidInput, match="url"):
            Client(url, transport=transport)


@both
def test_the_endpoint_learns_when_the_request_was_sent(connect: Connect, echo: str, transport: str) -> None:
    before = time.time()
    start = connect(transport).predict({}, echo).json()["start"]
    assert start.startswith("t=")
    assert before - 1e-5 <= float(start[2:]) <= time.time()


def test_explain_asks_the_explanations_over_http_and_in_band_over_grpc(connect: Connect, echo: str) -> None:
    http, grpc = (connect(transport).explain("red", echo, target="mask") for transport in ("http", "grpc"))
    asked = {"prompt": "red", "deadline_ms": 600_000, "target": "mask"}  # the worker stops when the client does
    assert (http["explains"], http["payload"]) == (True, asked)
    assert (grpc["explains"], grpc["payload"]) == (False, {"explain": asked})
    briefly = connect("http").explain("red", echo, timeout=5, deadline_ms=7)
    assert briefly["payload"] == {"prompt": "red", "deadline_ms": 7}
    assert connect("http").explain("red", echo, timeout=5)["payload"]["deadline_ms"] == 5000


@both
def test_a_refused_token_is_read_again_from_its_file(
    connect: Connect, server: Server, tmp_path: Path, transport: str
) -> None:
    key_file = tmp_path / "key_file.json"
    stale = {"inference": {"key": "stale"}, "management": {"key": "stale"}}
    key_file.write_text(json.dumps(stale))
    client = connect(transport, token=None, management_token=None, key_file=key_file)
    for content in (json.dumps(stale), "half-writ"):
        key_file.write_text(content)
        with pytest.raises(ServiceError) as refused:
            client.generate(**QUICK)
        assert (refused.value.status, refused.value.kind) == (400, "InvalidKeyException")
        assert f"token of {key_file} is not, or no longer, the one of this address" in str(refused.value)
    key_file.write_text(server.key_file.read_text())
    assert client.generate(**QUICK).seed == 7
    assert "plain" in client.models()
    key_file.unlink()  # the fresh token is kept
    assert client.generate(**QUICK).seed == 7


@both
def test_who_sends_no_token_is_told_how_to_give_one(connect: Connect, transport: str) -> None:
    client = connect(transport, token=None, management_token=None, environment=False)
    for ask, variable in (
        (lambda: client.generate(**QUICK), "HYBRIDSTITCH_TOKEN"),
        (client.models, "HYBRIDSTITCH_MANAGEMENT_TOKEN"),
    ):
        with pytest.raises(ServiceError, match=f"no token was sent: .* --key-file, or set {variable}$"):
            ask()


@both
def test_a_token_comes_from_the_argument_the_environment_or_the_key_file(
    connect: Connect, server: Server, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    def health(**arguments: Any) -> bool:
        return connect(transport, **{"token": None, "management_token": None, **arguments}).health()

    assert not health()
    assert health(key_file=server.key_file)
    monkeypatch.setenv("HYBRIDSTITCH_KEY_FILE", str(server.key_file))
    assert health()
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN", "wrong")
    assert not health()
    assert health(token=server.token())
    monkeypatch.setenv("HYBRIDSTITCH_TOKEN", str(server.token()))
    monkeypatch.setenv("HYBRIDSTITCH_MANAGEMENT_TOKEN", str(server.token("management")))
    monkeypatch.setenv("HYBRIDSTITCH_KEY_FILE", "/nowhere")
    assert health()
    monkeypatch.delenv("HYBRIDSTITCH_TOKEN")
    with pytest.raises(InvalidInput, match="key_file"):
        health()


@both
def test_an_answer_that_never_comes_is_a_timeout(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, "token", timeout=0.5, management_url=url, transport=transport) as client:
            for ask in (
                lambda: client.generate("red apple"),
                client.models,
                lambda: client.explain("red apple", timeout=0.5),
            ):
                started = time.monotonic()
                with pytest.raises(ServiceTimeout, match=r"0\.5 s"):
                    ask()
                assert time.monotonic() - started < 5
            assert not client.health()


@both
def test_a_late_answer_is_a_timeout(connect: Connect, echo: str, transport: str) -> None:
    with pytest.raises(ServiceTimeout):
        connect(transport, timeout=0.3).predict({"sleep": 1}, echo)
    assert connect(transport).predict({"sleep": 0}, echo).json()["version"] == "1.0"


@both
def test_a_refused_connection_has_an_error_of_its_own(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        url = f"http://127.0.0.1:{once.getsockname()[1]}"
    with Client(url, transport=transport, timeout=20) as client:
        started = time.monotonic()
        with pytest.raises(ServiceUnreachable):
            client.generate("red apple")
        assert time.monotonic() - started < 10
        assert not client.health()


@both
def test_an_answer_of_another_model_is_told_from_a_picture(connect: Connect, echo: str, transport: str) -> None:
    with pytest.raises(ServiceError) as strange:
        connect(transport).generate("red apple", model=echo)
    assert (strange.value.status, strange.value.kind) == (0, "unexpected_answer")


def test_several_pictures_in_one_answer(connect: Connect) -> None:
    http, grpc = (connect(transport).generate(**QUICK, num_images=2) for transport in ("http", "grpc"))
    assert len(http.images) == len(grpc.images) == 2
    for one, other in zip(http.images, grpc.images, strict=True):
        assert np.array_equal(one, other)
    second = connect("http").generate(**(QUICK | {"seed": QUICK["seed"] + 1}))
    assert np.abs(np.asarray(http.images[1], dtype=int) - np.asarray(second.image, dtype=int)).max() <= 1
