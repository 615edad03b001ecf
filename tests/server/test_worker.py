"""What a worker promises while it generates, on TorchServe's own context objects and real tiny models."""

from __future__ import annotations

import base64
import gc
import json
import math
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from hybridstitch.wire.proof import smallest_request
from tests.support.handlers import HTTP, QUICK, WHY, call, make_handler, pixels

FOUR_STEPS = QUICK | {"num_inference_steps": 4, "recipe": "hybridstitch"}
NAN, INFINITE = math.nan, math.inf


@pytest.fixture
def pieces(handler: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, Any]]]:
    """Streamed events in their order, each with the index of its request; the socket to TorchServe is left out."""
    sent: list[tuple[int, dict[str, Any]]] = []

    def keep(ret: dict[int, bytes], *_: Any) -> None:
        sent.extend((index, json.loads(line)) for index, line in ret.items())

    monkeypatch.setattr("hybridstitch.serving.worker.torchserve.send_intermediate_predict_response", keep)
    return sent


@contextmanager
def failing(model: torch.nn.Module, act: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """While it is open, `act` sees the image tokens that every forward of the model ends with, and may raise."""
    hook = model.norm_out.register_forward_hook(lambda _module, inputs, _output: act(inputs[0]))
    try:
        yield
    finally:
        hook.remove()


def test_the_memory_of_a_failed_batch_is_free_before_its_requests_are_retried(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive_at_retry: list[int] = []

    def run_out_of_memory(hidden: torch.Tensor) -> None:
        if hidden.shape[0] > 2:  # two halves of guidance for one picture
            held.append(weakref.ref(hidden))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        alive_at_retry.append(sum(each() is not None for each in held))

    gc.disable()  # freed by leaving the handler, not by luck
    try:
        with failing(handler.service.pipeline.large, run_out_of_memory):
            answers, context = call(handler, [{"body": QUICK | {"seed": seed}} for seed in (1, 2, 3)])
    finally:
        gc.enable()
    assert [context.get_response_status(index)[0] for index in range(3)] == [200] * 3
    assert all(answer.startswith(b"\x89PNG") for answer in answers)
    assert (len(held), set(alive_at_retry)) == (1, {0})
    failures = [record for record in caplog.records if "OutOfMemoryError" in record.getMessage()]
    assert len(failures) == 1
    assert failures[0].getMessage().startswith("3 requests failed together")


def test_a_stream_whose_batch_fails_reports_no_step_twice(handler: Any, pieces: list[Any]) -> None:
    forwards = []

    def fail_in_the_middle(hidden: torch.Tensor) -> None:
        forwards.append(hidden.shape[0])
        if hidden.shape[0] > 2 and len(forwards) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    bodies = [FOUR_STEPS | {"recipe": "large", "stream": True, "previews": 3}, FOUR_STEPS | {"recipe": "large"}]
    with failing(handler.service.pipeline.large, fail_in_the_middle):
        answers, _ = call(handler, [{"body": body} for body in bodies])
    assert forwards == [4, 4, 4] + [2] * 8
    events = [event for index, event in pieces if index == 0]
    assert [event["step"] for event in events if event["event"] == "progress"] == [1, 2, 3, 4]
    assert [event["step"] for event in events if event["event"] == "preview"] == [1, 2, 3]
    elapsed = [event["elapsed_ms"] for event in events if event["event"] == "progress"]
    assert elapsed == sorted(elapsed)
    assert json.loads(answers[0])["event"] == "result"
    assert answers[1].startswith(b"\x89PNG")


def test_a_preview_that_is_not_finite_is_left_out_with_a_warning(
    handler: Any, pieces: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def overflow_first(latents: torch.Tensor) -> Any:
        decoded.append(latents)
        return handler.service.pipeline.decode(latents * (INFINITE if len(decoded) == 1 else 1))

    monkeypatch.setattr(handler.service, "preview", overflow_first)
    body = FOUR_STEPS | {"stream": True, "previews": 3, "request_id": "r-1"}
    (answer,), _ = call(handler, [{"body": body}])
    result = json.loads(answer)
    assert [event["step"] for _, event in pieces if event["event"] == "preview"] == [2, 3]
    (warning,) = [each for each in result["warnings"] if "preview" in each]
    assert "image 0 at step 1" in warning
    assert warning in result["report"]["warnings"]
    (whole,), _ = call(handler, [{"body": FOUR_STEPS}])
    assert (pixels(base64.b64decode(result["data"][0]["b64_json"])) == pixels(whole)).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_an_explanation_that_names_no_steps_explains_at_most_four(handler: Any, steps: int) -> None:
    body = {"prompt": "a b", "seed": 1, "num_inference_steps": steps, "target": "image", "recipe": "large"}
    for asked in (body, body | {"steps_explained": None}):
        (answer,), context = call(handler, [{"body": asked}], WHY)
        assert context.get_response_status(0)[0] == 200, answer
        assert len(json.loads(answer)["steps_explained"]) == min(4, steps)


@pytest.mark.parametrize("name", ["hybridstitch_handler", "plain_sd3_handler"])
def test_an_answer_names_its_worker(tiny: Path, name: str) -> None:
    handler = make_handler(name, tiny)
    _, context = call(handler, [{"body": QUICK}, {"body": QUICK | {"seed": -1}}])
    named = [context.get_response_headers(index)["x-hybridstitch-worker"] for index in range(2)]
    assert named == [str(os.getpid())] * 2


def broken(pair: Path, folder: Path, part: str) -> Path:
    """A copy of a pair in which one part has weights that are not numbers."""
    shutil.copytree(pair, folder)
    (weights,) = (folder / part).glob("*.safetensors")
    tensors = load_file(weights)
    save_file({name: torch.full_like(tensor, NAN) for name, tensor in tensors.items()}, weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("handler_name", "part", "named"),
    [
        ("hybridstitch_handler", "transformer", "large model"),
        ("hybridstitch_handler", "transformer_small", "small model"),
        ("hybridstitch_handler", "vae", "picture"),
        ("plain_sd3_handler", "transformer", "large model"),
    ],
)
def test_ready_means_generated_by_every_model(
    tiny: Path, tmp_path: Path, handler_name: str, part: str, named: str
) -> None:
    pair = broken(tiny, tmp_path / "pair", part)
    with pytest.raises(FloatingPointError, match=f"^{named}: "):
        make_handler(handler_name, pair)


@pytest.mark.parametrize("name", ["large", "small"])
def test_the_request_of_a_probe_fails_if_either_model_is_broken(handler: Any, name: str) -> None:
    body = smallest_request(handler.service.size_limits.minimum, recipes=True)
    (answer,), _ = call(handler, [{"body": body}])
    assert answer.startswith(b"\x89PNG")
    model = getattr(handler.service.pipeline, name)
    hook = model.norm_out.register_forward_hook(lambda _module, _inputs, output: output * NAN)
    try:
        (answer,), context = call(handler, [{"body": body}])
    finally:
        hook.remove()
    assert (context.get_response_status(0)[0], json.loads(answer)["error"]["type"]) == (500, "numerical_error")


@pytest.fixture(scope="module")
def half_broken(tiny: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive whose small model is broken."""
    pair = broken(tiny, tmp_path_factory.mktemp("broken") / "pair", "transformer_small")
    return pack(pair, out=store, name="half").stem


def test_a_server_registers_no_model_that_is_broken(server: Server, half_broken: str) -> None:
    with pytest.raises(RuntimeError, match="small model: expected finite output"):
        server.register(half_broken)
    assert half_broken not in server.client.models()


def test_a_description_says_whether_the_unpacked_copy_is_there(tiny: Path, tmp_path: Path) -> None:
    pair = shutil.copytree(tiny, tmp_path / "pair")
    handler = make_handler("hybridstitch_handler", pair)
    assert handler.describe_handle()["copy_on_disk"] is True
    shutil.rmtree(pair)
    assert handler.describe_handle()["copy_on_disk"] is False
    (answer,), _ = call(handler, [{"body": QUICK}], HTTP)
    assert answer.startswith(b"\x89PNG")
