"""Explanations in the worker, on TorchServe's own context objects: mixed batches, refusals, and nothing left behind."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ts.utils.util import PredictionException

from hybridstitch.serving.worker.explain import explain_request
from tests.support.handlers import HTTP, QUICK, STITCHED, WHY, call, make_handler

ASKED = {"prompt": "a b", "seed": 1, "num_inference_steps": 4, "recipe": STITCHED, "steps_explained": 1}


def fields(answer: bytes) -> set[str]:
    """The fields that an error names."""
    return {problem["field"] for problem in json.loads(answer)["error"]["problems"]}


def explain(handler: Any, **changes: Any) -> tuple[dict[str, Any], int]:
    """The answer to one request and its status."""
    (answer,), context = call(handler, [{"body": ASKED | changes}], WHY)
    return json.loads(answer), context.get_response_status(0)[0]


@pytest.mark.parametrize("explanation_first", [True, False])
def test_each_row_of_a_mixed_batch_gets_what_it_asked_for(handler: Any, explanation_first: bool) -> None:
    rows = [
        ({"body": ASKED}, WHY),
        ({"body": QUICK}, HTTP),
        ({"body": ASKED | {"target": "why", "seed": -1}}, WHY),
        ({"body": {"explain": ASKED}}, HTTP),
        ({"body": QUICK | {"seed": -1}}, HTTP),
    ]
    order = range(5) if explanation_first else [1, 0, 4, 3, 2]
    bodies, headers = zip(*(rows[index] for index in order), strict=True)
    answers, context = call(handler, list(bodies), list(headers))
    answered = dict(zip(order, answers, strict=True))
    statuses = {row: context.get_response_status(place)[0] for place, row in enumerate(order)}
    assert statuses == {0: 200, 1: 200, 2: 400, 3: 200, 4: 400}
    assert answered[1] == call(handler, [{"body": QUICK}])[0][0]
    assert fields(answered[2]) == {"target", "seed"}
    assert fields(answered[4]) == {"seed"}
    by_route, in_band = (json.loads(answered[row]) for row in (0, 3))
    assert [word["text"] for word in by_route["words"]] == ["a", "b"]
    assert by_route["words"] == in_band["words"]


def test_over_grpc_an_explanation_and_a_prediction_share_a_batch(handler: Any) -> None:
    bodies = [{"explain": ASKED}, QUICK, {"explain": ASKED | {"method": "magic"}}]
    answers, context = call(handler, [{"data": json.dumps(body).encode()} for body in bodies], headers={})
    assert len(json.loads(answers[0])["words"]) == 2
    assert answers[1].startswith(b"\x89PNG")
    assert fields(answers[2]) == {"method"}
    assert all(context.get_response_headers(index)["ts_stream_next"] == "false" for index in range(3))
    with pytest.raises(PredictionException) as raised:
        call(handler, [{"data": json.dumps(bodies[2]).encode()}], headers={})
    assert raised.value.error_code == 400


def test_the_answer_is_whole(handler: Any) -> None:
    answer, status = explain(handler, target="mask", output_format="jpeg")
    assert status == 200
    rows, columns = answer["report"]["mask"]["grid"]
    assert (answer["target"], answer["method"]) == ("mask", "ablation")
    assert [ASKED["prompt"][word["start"] : word["end"]] for word in answer["words"]] == ["a", "b"]
    for word in answer["words"]:
        heat = np.asarray(Image.open(io.BytesIO(base64.b64decode(word["heatmap_png_b64"]))))
        assert heat.shape == (rows, columns)
        assert heat.max() == (255 if word["heat_max"] else 0)
    picture, overlay = (
        Image.open(io.BytesIO(base64.b64decode(each)))
        for each in (answer["data"][0]["b64_json"], answer["heatmap_png_b64"])
    )
    assert (picture.format, overlay.format) == ("JPEG", "PNG")
    assert picture.size == overlay.size == (32, 32)
    assert answer["mask"]["grid"] == [rows, columns]
    assert 0 < len(answer["mask"]["tokens"]) < rows * columns
    assert answer["forwards"] > 0
    assert len(answer["steps_explained"]) == 1
    assert "convergence_delta" not in answer


def test_its_request_makes_it_again_and_its_picture_is_the_prediction(handler: Any) -> None:
    answer, _ = explain(handler, target="region", region=[0, 0, 16, 16])
    again, _ = explain(handler, **answer["request"])
    assert again["words"] == answer["words"]
    assert answer["request"]["region"] == [0, 0, 16, 16]
    picture = base64.b64decode(answer["data"][0]["b64_json"])
    made = json.loads(Image.open(io.BytesIO(picture)).text["hybridstitch"])
    assert "region" not in made  # the question was about it, the drawing was not
    assert call(handler, [{"body": made}])[0][0] == picture


def test_integrated_gradients_say_how_complete_they_are(handler: Any) -> None:
    answer, status = explain(handler, target="image", method="integrated_gradients")
    assert status == 200
    assert isinstance(answer["convergence_delta"], float)
    assert answer["mask"] is None


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"target": "why", "method": "magic", "steps_explained": 0}, {"target", "method", "steps_explained"}),
        ({"steps_explained": 5}, {"steps_explained"}),
        ({"steps_explained": True}, {"steps_explained"}),
        ({"stream": True, "num_images": 2, "previews": 1}, {"stream", "num_images", "previews"}),
        ({"response_format": "image", "promt": "x"}, {"response_format", "promt"}),
        ({"target": "region"}, {"region"}),
        ({"target": "region", "region": [9, 9, 1, 1], "width": 3}, {"width", "region"}),
        ({"target": "region", "region": [9, 9, 1, 1]}, {"region"}),
        ({"target": "mask", "recipe": "large"}, {"target"}),
        ({"prompt": "x " * 900}, {"prompt"}),
        ({"explain": {}}, {"explain"}),
    ],
)
def test_wrong_fields_are_named_together(handler: Any, changes: dict[str, Any], wrong: set[str]) -> None:
    answer, status = explain(handler, **changes)
    assert status == 400
    assert {problem["field"] for problem in answer["error"]["problems"]} == wrong


@pytest.mark.parametrize("body", [{"explain": ASKED, "seed": 1}, {"explain": "why"}, {"explain": None}])
def test_the_in_band_form_stands_alone(handler: Any, body: dict[str, Any]) -> None:
    (answer,), _ = call(handler, [{"body": body}])
    assert fields(answer) == {"explain"}


def test_fields_that_say_what_holds_anyway_are_taken(handler: Any) -> None:
    _, status = explain(handler, stream=False, num_images=1, previews=0, response_format="json")
    assert status == 200


def state(pipeline: Any) -> list[Any]:
    """What an explanation could leave in the models: attention processors, hooks, gradients and modes."""
    models = (pipeline.large, pipeline.small, pipeline.components["text_encoder"], pipeline.components["vae"])
    found: list[Any] = [list(model.attn_processors.values()) for model in models[:2]]
    for model in models:
        for module in model.modules():
            hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
            found.append([[*map(id, each.values())] for each in hooks] + [module.training])
            found.append(getattr(module, "gradient_checkpointing", None))
        found += [(parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    return found


def test_nothing_is_left_behind_by_an_explanation_or_by_one_that_fails(handler: Any) -> None:
    picture, pipeline = call(handler, [{"body": QUICK}])[0], handler.service.pipeline
    before = state(pipeline)
    request, question = handler.service.parse_explanation(ASKED)
    ends = set()
    for allowed in range(0, 30, 3):
        left = iter(range(allowed))

        def fail(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise RuntimeError("stopped")

        try:
            explain_request(pipeline, request, question, fail)
            ends.add("whole")
        except RuntimeError as error:
            ends.add(str(error))
        assert state(pipeline) == before
    assert "stopped" in ends
    for method in ("ablation", "integrated_gradients"):
        assert explain(handler, method=method)[1] == 200
        assert state(pipeline) == before
    assert call(handler, [{"body": QUICK}])[0] == picture


def test_a_deadline_ends_an_explanation_and_spares_its_neighbour(handler: Any) -> None:
    body = ASKED | {"num_inference_steps": 100, "steps_explained": 100, "deadline_ms": 50, "request_id": "late"}
    answers, context = call(handler, [{"body": body}, {"body": QUICK}], [WHY, HTTP])
    assert [context.get_response_status(index)[0] for index in range(2)] == [504, 200]
    error = json.loads(answers[0])["error"]
    assert (error["type"], error["request_id"]) == ("deadline_exceeded", "late")
    assert answers[1].startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["plain_sd3_handler", "hybridstitch_handler"])
def test_where_nothing_is_explained_it_is_refused_and_predictions_go_on(tiny: Path, name: str) -> None:
    handler = make_handler(name, tiny, {"handler": {"explanations": False}})
    answers, _ = call(handler, [{"body": ASKED}, {"body": QUICK}, {"body": {"explain": ASKED}}], [WHY, HTTP, HTTP])
    assert fields(answers[0]) == fields(answers[2]) == {"explain"}
    assert answers[1].startswith(b"\x89PNG")
    assert "explanation_schema" not in handler.describe_handle()
