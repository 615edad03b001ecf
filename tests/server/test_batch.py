"""Batches from TorchServe, on its own context objects: what is drawn together, and that no neighbour suffers."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hybridstitch.wire.names import REQUEST_START as START
from tests.support.handlers import HTTP, QUICK, call, make_handler, pixels

TWO_STEPS = QUICK | {"num_inference_steps": 2}


@pytest.fixture
def drawn(handler: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests each call of the model had; the drawing itself is the real one."""
    sizes: list[int] = []
    draw = handler.service.generate

    def counted(requests: Any, progress: Any) -> Any:
        sizes.append(len(requests))
        return draw(requests, progress)

    monkeypatch.setattr(handler.service, "generate", counted)
    return sizes


def documents(answers: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(answer) for answer in answers]


def pictures_of(document: dict[str, Any]) -> list[np.ndarray]:
    return [pixels(base64.b64decode(each["b64_json"])) for each in document["data"]]


@pytest.mark.parametrize("recipe", ["large", "small", "hybridstitch", "mdd", "srdiffusion"])
def test_a_request_in_a_batch_gets_the_picture_that_it_gets_alone(handler: Any, drawn: list[int], recipe: str) -> None:
    bodies = [TWO_STEPS | {"prompt": f"a{seed}", "seed": seed, "recipe": recipe} for seed in range(3)]
    together, _ = call(handler, [{"body": body} for body in bodies])
    assert drawn == [3]
    for body, answer in zip(bodies, together, strict=True):
        (alone,), _ = call(handler, [{"body": body}])
        assert abs(pixels(answer) - pixels(alone)).max() <= 1  # rounding of float32


def test_what_cannot_share_a_forward_is_drawn_apart_and_answered_in_order(handler: Any, drawn: list[int]) -> None:
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"width": 16},
        {"seed": 2},
        {"num_inference_steps": 1},
        {"recipe": "small"},
        {"seed": -1},
        {"width": 16, "seed": 3},
        {"guidance_scale": 1.0},
        {"region": [0, 0, 8, 8]},
    ]
    bodies = [TWO_STEPS | {"response_format": "json"} | change for change in changes]
    answers, context = call(handler, [{"body": body} for body in bodies])
    assert sorted(drawn) == [1, 1, 1, 1, 2, 2]
    assert [context.get_response_status(index)[0] for index in range(9)] == [200] * 5 + [400] + [200] * 3
    for body, document in zip(bodies, documents(answers), strict=True):
        if body["seed"] >= 0:
            report = document["report"]
            assert [report[name] for name in ("seed", "num_inference_steps")] == [
                body["seed"],
                body["num_inference_steps"],
            ]
            assert report["width"] == body.get("width", 32)


def test_a_forward_takes_no_more_pictures_than_the_operator_allows(tiny: Path) -> None:
    handler = make_handler("hybridstitch_handler", tiny, {"handler": {"pictures_per_forward": 2}})
    asked = [QUICK | {"response_format": "json"}] * 3 + [QUICK | {"num_images": 3}]
    answers, _ = call(handler, [{"body": body} for body in asked])
    assert [each["report"]["batch_size"] for each in documents(answers)] == [2, 2, 1, 3]


def test_several_images_have_consecutive_seeds_and_one_report(handler: Any) -> None:
    body = TWO_STEPS | {"num_images": 3, "seed": 5, "recipe": "hybridstitch"}
    neighbour = TWO_STEPS | {"recipe": "hybridstitch", "response_format": "json"}
    first, second = documents(call(handler, [{"body": body}, {"body": neighbour}])[0])
    assert [each["seed"] for each in first["data"]] == [5, 6, 7]
    assert len(first["report"]["mask"]["large_steps"]) == 3
    assert len(second["report"]["mask"]["large_steps"]) == 1
    assert first["report"]["batch_size"] == second["report"]["batch_size"] == 4
    for seed, picture in zip((5, 6, 7), pictures_of(first), strict=True):
        (alone,), _ = call(handler, [{"body": TWO_STEPS | {"seed": seed, "recipe": "hybridstitch"}}])
        assert abs(picture - pixels(alone)).max() <= 1


def test_every_picture_of_several_can_be_made_again_by_itself(handler: Any) -> None:
    (document,) = documents(call(handler, [{"body": TWO_STEPS | {"num_images": 2, "region": [0, 0, 8, 16]}}])[0])
    for each, picture in zip(document["data"], pictures_of(document), strict=True):
        request = json.loads(Image.open(io.BytesIO(base64.b64decode(each["b64_json"]))).text["hybridstitch"])
        assert (request["seed"], request["num_images"], request["region"]) == (each["seed"], 1, [0, 0, 8, 16])
        (again,), _ = call(handler, [{"body": request}])
        assert abs(picture - pixels(again)).max() <= 1


def test_the_large_model_renders_a_region_throughout(handler: Any) -> None:
    body = TWO_STEPS | {"num_inference_steps": 4, "response_format": "json", "recipe": "hybridstitch"}
    ours, theirs = documents(call(handler, [{"body": body | {"region": [5, 0, 17, 9]}}, {"body": body}])[0])
    cell = 32 // ours["report"]["mask"]["grid"][0]
    steps = np.array(ours["report"]["mask"]["large_steps"][0])
    rows, columns = slice(0, -(-9 // cell)), slice(5 // cell, -(-17 // cell))
    assert (steps[rows, columns] == 4).all()
    assert steps.min() < 4
    assert (steps >= 1).all()  # the recipe's own dense step is still everywhere
    assert np.array(theirs["report"]["mask"]["large_steps"]).sum() < steps.sum()
    assert ours["report"]["region"] == [5, 0, 17, 9]


def test_an_expired_request_fails_alone(handler: Any) -> None:
    late = {START: f"t={time.time() - 60:.3f}"}
    rows = [{"body": TWO_STEPS}, {"body": TWO_STEPS | {"deadline_ms": 1000, "request_id": "late"}}, {"body": TWO_STEPS}]
    answers, context = call(handler, rows, headers=HTTP | late)
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 504, 200]
    error = json.loads(answers[1])["error"]
    assert (error["type"], error["request_id"]) == ("deadline_exceeded", "late")


def test_a_deadline_ends_the_work_at_the_next_step(handler: Any) -> None:
    started = time.monotonic()
    (answer,), context = call(handler, [{"body": QUICK | {"num_inference_steps": 100, "deadline_ms": 20}}])
    assert context.get_response_status(0)[0] == 504
    assert json.loads(answer)["error"]["type"] == "deadline_exceeded"
    expired = time.monotonic() - started
    started = time.monotonic()
    call(handler, [{"body": QUICK | {"num_inference_steps": 100}}])
    assert expired < (time.monotonic() - started) / 2


@pytest.mark.parametrize("seconds", [-60, 1e6])
def test_a_clock_that_is_wrong_expires_nothing(handler: Any, seconds: float) -> None:
    headers = HTTP | {START: f"t={time.time() - seconds:.3f}"}
    _, context = call(handler, [{"body": QUICK | {"deadline_ms": 30_000}}], headers=headers)
    assert context.get_response_status(0)[0] == 200


def test_a_failure_while_drawing_hits_only_the_request_that_causes_it(
    handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = handler.service.generate

    def fails_for_seven(requests: Any, progress: Any) -> Any:
        if any(request.seed == 7 for request in requests):
            raise FloatingPointError("latents: not finite after denoising")
        return draw(requests, progress)

    monkeypatch.setattr(handler.service, "generate", fails_for_seven)
    answers, context = call(handler, [{"body": QUICK | {"seed": seed}} for seed in (1, 7, 2)])
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 500, 200]
    assert json.loads(answers[1])["error"]["type"] == "numerical_error"


def test_an_answer_that_is_too_large_is_an_error_and_not_the_workers_end(tiny: Path) -> None:
    handler = make_handler("hybridstitch_handler", tiny, {"handler": {"max_response_bytes": 2**16 + 500}})
    answers, context = call(handler, [{"body": QUICK}, {"body": QUICK | {"prompt": ""}}])
    assert [context.get_response_status(index)[0] for index in range(2)] == [500, 400]
    assert json.loads(answers[0])["error"]["type"] == "response_too_large"


@pytest.mark.parametrize(
    ("content_type", "values"),
    [
        ("application/x-www-form-urlencoded", {"prompt": b"x", "seed": b"1", "num_inference_steps": b"2"}),
        ("multipart/form-data; boundary=a", {"prompt": b"x", "seed": b"1", "num_inference_steps": b"2"}),
        ("text/plain; charset=utf-8", {"body": b"x"}),
    ],
)
def test_forms_and_plain_text_are_requests_too(handler: Any, content_type: str, values: dict[str, bytes]) -> None:
    row = {name: bytearray(value) for name, value in values.items()}
    (answer,), context = call(handler, [row], headers=HTTP | {"Content-Type": content_type})
    assert context.get_response_status(0)[0] == 200
    made = json.loads(Image.open(io.BytesIO(answer)).text["hybridstitch"])
    assert made["prompt"] == "x"
    if "seed" in values:
        (as_json,), _ = call(handler, [{"body": TWO_STEPS}])
        assert as_json == answer


def test_a_form_may_describe_a_recipe(handler: Any) -> None:
    form = {"prompt": b"5", "num_inference_steps": b"2", "region": b"[0, 0, 8, 8]", "recipe": b"small"}
    headers = HTTP | {"Content-Type": "application/x-www-form-urlencoded"}
    (named,), context = call(handler, [form], headers=headers)
    assert context.get_response_headers(0)["x-hybridstitch-recipe"] == "small"
    assert json.loads(Image.open(io.BytesIO(named)).text["hybridstitch"])["prompt"] == "5"
    call(handler, [form | {"recipe": b'{"name": "hybridstitch", "plan": {"share": 0.5}}'}], headers=headers)
    assert context.get_response_headers(0)["x-hybridstitch-recipe"] == "custom"


def test_over_grpc_each_key_may_be_a_field_and_a_start(handler: Any) -> None:
    row = {
        "prompt": b"x",
        "seed": b"1",
        "num_inference_steps": b"2",
        START: f"t={time.time() - 60:.3f}".encode(),
    }
    (answer,), _ = call(handler, [row], headers={})
    (as_json,), _ = call(handler, [{"body": TWO_STEPS}])
    assert answer == as_json
    answers, _ = call(handler, [row | {"deadline_ms": b"100"}] * 2, headers={})
    assert [each["error"]["type"] for each in documents(answers)] == ["deadline_exceeded"] * 2


def test_over_grpc_a_stream_is_refused(handler: Any) -> None:
    rows = [{"data": json.dumps(QUICK | {"stream": True}).encode()}, {"data": json.dumps(QUICK).encode()}]
    answers, context = call(handler, rows, headers={})
    assert json.loads(answers[0])["error"]["problems"][0]["field"] == "stream"
    assert answers[1].startswith(b"\x89PNG")
    assert context.get_response_headers(0)["ts_stream_next"] == "false"
