"""What KServe's two dialects make of a body, and what they make of results; without a server and without models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybridstitch.errors import InvalidInput
from hybridstitch.wire.failures import MAX_PROBLEMS, failure_of
from tests.support.dialects import REPORT, TENSOR, V1, V2, colour, document, parser, refused, rendering


@pytest.fixture
def parse(emoji: Path) -> Any:
    return parser(emoji)


def test_instances_are_requests_and_errors_have_their_place(parse: Any) -> None:
    body = {
        "instances": [{"prompt": "x", "seed": 5}, {"prompt": "x", "width": 1}, {"seed": 6, "prompt": "y"}, "x"],
        "parameters": {"num_inference_steps": 3, "seed": 1, "width": 64},
    }
    asked = V1.read(body)
    first, third = parse(asked.readings[0]), parse(asked.readings[2])
    assert (first.seed, first.generation.num_inference_steps, first.generation.width) == (5, 3, 64)
    failures = []
    for reading in (asked.readings[1], asked.readings[3]):
        with pytest.raises(InvalidInput) as error:
            parse(reading)
        failures.append(failure_of(error.value, "id"))
    answer = V1.answer(asked, [rendering(first), failures[0], rendering(third), failures[1]])
    predictions = document(answer.body)["predictions"]
    assert (answer.status, answer.outcome) == (200, "ok")
    assert [each["data"][0]["seed"] for each in (predictions[0], predictions[2])] == [5, 6]
    assert colour(predictions[0]["data"][0]["b64_json"]) == ("PNG", 5)
    assert predictions[1]["error"]["problems"][0]["field"] == "width"
    assert predictions[3]["error"]["problems"][0]["field"] == "body"
    alone = V1.answer(V1.read({"instances": [{}]}), [failures[0]])
    assert (alone.status, alone.outcome) == (400, "invalid_request")
    assert document(alone.body)["predictions"] == [predictions[1]]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"instances": []}, {"instances"}),
        ({"instances": [{}] * 33}, {"instances"}),
        ({"instances": {"prompt": "x"}, "prompt": "x"}, {"instances", "prompt"}),
        ({"instances": [{}], "parameters": []}, {"parameters"}),
        ({"instances": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}, {"body"}),
    ],
)
def test_a_body_of_instances_that_is_wrong_as_a_whole(body: Any, fields: set[str]) -> None:
    with pytest.raises(InvalidInput) as error:
        V1.read(body)
    assert {problem.field for problem in error.value.problems} == fields
    answer = V1.error(failure_of(error.value))
    assert answer.status == 400
    assert all(f"{name}: expected" in document(answer.body)["error"] for name in fields)


@pytest.mark.parametrize("dialect", ["v1", "v2"])
def test_answers_of_several_requests_are_whole_documents(parse: Any, dialect: str) -> None:
    for name, value in {"stream": True, "response_format": "image"}.items():
        kind = "BOOL" if name == "stream" else "BYTES"
        tensor = {"name": name, "shape": [1], "datatype": kind, "data": [value]}
        body = {"instances": [{"prompt": "x", name: value}]} if dialect == "v1" else {"inputs": [TENSOR, tensor]}
        assert refused(parse, V1 if dialect == "v1" else V2, body).keys() == {name}


def test_tensors_are_fields_and_rows_are_requests(parse: Any) -> None:
    body = {
        "id": "call-1",
        "parameters": {"recipe": "small"},
        "inputs": [
            {"name": "prompt", "shape": [2, 1], "datatype": "BYTES", "data": [["x"], ["7"]],
             "parameters": {"content_type": "str"}},
            {"name": "seed", "shape": [2], "datatype": "INT64", "data": [5, 6]},
            {"name": "guidance_scale", "shape": [1], "datatype": "FP32", "data": [2.5]},
            {"name": "region", "shape": [1, 4], "datatype": "INT32", "data": [0, 0, 64, 64]},
            {"name": "num_images", "shape": [], "datatype": "UINT8", "data": 2},
        ],
    }  # fmt: skip
    asked = V2.read(body)
    requests = [parse(reading) for reading in asked.readings]
    assert [request.generation.prompts.texts["prompt"][0] for request in requests] == ["x", "7"]
    assert [request.seeds for request in requests] == [(5, 6), (6, 7)]
    assert all(request.generation.region == (0, 0, 64, 64) for request in requests)
    assert all(request.generation.guidance_scale == 2.5 for request in requests)
    answer = document(V2.answer(asked, [rendering(each) for each in requests]).body)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("hybridstitch", "1.0", "call-1")
    tensors = {tensor["name"]: tensor for tensor in answer["outputs"]}
    assert [(each["datatype"], each["shape"]) for each in tensors.values()] == [
        ("BYTES", [4]),
        ("INT64", [4]),
        ("BYTES", [2]),
    ]
    assert tensors["seed"]["data"] == [5, 6, 6, 7]
    assert [colour(each) for each in tensors["image"]["data"]] == [("PNG", 5), ("PNG", 6), ("PNG", 6), ("PNG", 7)]
    assert json.loads(tensors["report"]["data"][0]) == REPORT


def test_a_recipe_is_a_text_of_json_in_a_tensor(parse: Any) -> None:
    recipe = {"name": "hybridstitch", "mask": {"type": "random"}}
    tensor = {"name": "recipe", "shape": [1], "datatype": "BYTES", "data": [json.dumps(recipe)]}
    request = parse(V2.read({"inputs": [TENSOR, tensor]}).readings[0])
    assert request.generation.recipe.to_dict()["mask"]["type"] == "random"


def test_a_client_gets_the_outputs_that_it_wants(parse: Any) -> None:
    wanted = {"name": "seed", "parameters": {"binary_data": False}}
    asked = V2.read({"inputs": [TENSOR], "outputs": [wanted]})
    answer = document(V2.answer(asked, [rendering(parse(asked.readings[0]))]).body)
    assert [tensor["name"] for tensor in answer["outputs"]] == ["seed"]
    assert "id" not in answer


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"inputs": []}, {"inputs"}),
        ({"inputs": {"prompt": "x"}, "id": 3, "more": 1}, {"inputs", "id", "more"}),
        ({"inputs": [TENSOR, TENSOR]}, {"inputs.prompt"}),
        ({"inputs": ["x"]}, {"inputs.0"}),
        ({"inputs": [TENSOR | {"datatype": "STRING"}]}, {"inputs.prompt.datatype"}),
        ({"inputs": [TENSOR | {"shape": [2]}]}, {"inputs.prompt.shape"}),
        ({"inputs": [TENSOR | {"shape": [0], "data": []}]}, {"inputs.prompt.shape"}),
        ({"inputs": [TENSOR | {"shape": "1"}]}, {"inputs.prompt.shape"}),
        ({"inputs": [TENSOR | {"data": [1]}]}, {"inputs.prompt.data"}),
        ({"inputs": [TENSOR | {"datatype": "INT32", "data": [True]}]}, {"inputs.prompt.data"}),
        ({"inputs": [TENSOR | {"parameters": {"binary_data_size": 3}}]}, {"inputs.prompt.parameters"}),
        ({"inputs": [TENSOR | {"shape": [33], "data": ["x"] * 33}]}, {"inputs"}),
        ({"inputs": [TENSOR], "outputs": [{"name": "latents"}]}, {"outputs"}),
        ({"inputs": [TENSOR], "outputs": "image"}, {"outputs"}),
        ({"inputs": [TENSOR], "outputs": [{"name": "seed"}] * 4}, {"outputs"}),
        ({"inputs": [TENSOR], "outputs": [{"name": "seed", "shape": [1]}]}, {"outputs.0.shape"}),
        ({"inputs": [TENSOR], "outputs": [{"name": "seed", "parameters": {"binary_data": True}}]},
         {"outputs.0.parameters"}),
        ({"inputs": [TENSOR | {"name": str(number)} for number in range(65)]}, {"inputs"}),
        ({"inputs": [TENSOR | {"shape": [1] * 17}]}, {"inputs.prompt.shape"}),
        (
            {"inputs": [TENSOR | {"shape": [3], "data": ["x"] * 3},
                        {"name": "seed", "shape": [2], "datatype": "INT64", "data": [1, 2]}]},
            {"inputs.seed"},
        ),
    ],
)  # fmt: skip
def test_tensors_that_are_wrong(body: Any, fields: set[str]) -> None:
    with pytest.raises(InvalidInput) as error:
        V2.read(body)
    assert {problem.field for problem in error.value.problems} == fields


def test_one_wrong_row_refuses_the_whole_body(parse: Any) -> None:
    seeds = {"name": "seed", "shape": [2], "datatype": "INT64", "data": [5, -1]}
    asked = V2.read({"inputs": [TENSOR, seeds]})
    with pytest.raises(InvalidInput) as error:
        parse(asked.readings[1])
    answer = V2.answer(asked, [rendering(parse(asked.readings[0])), failure_of(error.value)])
    assert V2.whole_failure([object(), failure_of(error.value)]) is not None
    assert V1.whole_failure([object(), failure_of(error.value)]) is None
    assert (answer.status, answer.outcome) == (400, "invalid_request")
    assert document(answer.body)["error"].startswith("request 2 of 2: seed: expected")


def test_null_means_that_a_field_is_not_set_so_the_shared_value_holds(parse: Any) -> None:
    shared = {"seed": 5, "negative_prompt": "blurred", "num_inference_steps": 3}
    by_instance = V1.read({"instances": [{"prompt": "x", "seed": None}], "parameters": shared})
    empty = TENSOR | {"name": "negative_prompt", "data": [""]}
    by_tensor = V2.read({"inputs": [TENSOR, empty], "parameters": shared})
    for asked in (by_instance, by_tensor):
        request = parse(asked.readings[0])
        assert (request.seed, request.generation.num_inference_steps) == (5, 3)
        assert request.generation.prompts.texts["negative_prompt"] == ["blurred"]
    unknown = V1.read({"instances": [{"prompt": "x", "colour": None}], "parameters": shared})
    with pytest.raises(InvalidInput, match="colour"):
        parse(unknown.readings[0])


def test_the_error_of_many_wrong_rows_is_bounded(parse: Any) -> None:
    """Each row has as many problems as a request may have, with long names and values."""
    long = "\U0001f34e" * 300
    names = [TENSOR | {"name": f"{number}{long}", "data": [long]} for number in range(60)]
    asked = V2.read({"inputs": [TENSOR | {"shape": [32], "data": ["x"] * 32}, *names]})
    with pytest.raises(InvalidInput) as error:
        parse(asked.readings[0])
    failures = [failure_of(error.value)] * 32
    answer = V2.answer(asked, failures)
    text = document(answer.body)["error"]
    assert (answer.status, text.count("request 1 of 32: ")) == (400, MAX_PROBLEMS)
    assert len(answer.body) < 2**19
