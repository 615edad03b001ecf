"""Bodies of KServe's two protocols against a running server."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import requests

from hybridstitch.compare.endpoints.open import open_endpoint
from hybridstitch.compare.endpoints.spec import parse_endpoint
from hybridstitch.serving.server.server import Server
from tests.support.served import QUICK, encoded

OTHER = QUICK | {"seed": 8, "prompt": "green apple", "num_inference_steps": 3}
"""With another number of steps it shares no tensor with QUICK, so its bytes are those that it has alone."""
WRONG = QUICK | {"width": 1}


def post(server: Server, body: Any, path: str = "predictions/hybridstitch") -> requests.Response:
    headers = {"Authorization": f"Bearer {server.token()}"}
    return requests.post(f"{server.url}/{path}", json=body, headers=headers, timeout=60)


def tensor(name: str, kind: str, *values: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(values)], "datatype": kind, "data": list(values)}


def pictures(prediction: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(each["b64_json"]) for each in prediction["data"]]


@pytest.mark.parametrize("path", ["predictions/hybridstitch", "v1/models/hybridstitch:predict"])
def test_instances_one_of_them_wrong(server: Server, path: str) -> None:
    answer = post(server, {"instances": [QUICK, WRONG, OTHER]}, path)
    first, second, third = answer.json()["predictions"]
    assert answer.status_code == 200
    assert pictures(first) == [encoded(server.client.generate(**QUICK))[0]]
    assert pictures(third) == [encoded(server.client.generate(**OTHER))[0]]
    assert second["error"]["problems"][0]["field"] == "width"


def test_parameters_are_fields_of_all_instances(server: Server) -> None:
    shared = {"seed": 7, "num_inference_steps": 2, "num_images": 2}
    answer = post(server, {"instances": [{"prompt": QUICK["prompt"]}], "parameters": shared}).json()
    own = server.client.generate(QUICK["prompt"], **shared)
    assert pictures(answer["predictions"][0]) == encoded(own)


@pytest.mark.parametrize(("body", "words"), [({"instances": []}, "instances: expected"), ({"inputs": 3}, "inputs: ")])
def test_a_body_that_is_wrong_as_a_whole(server: Server, body: Any, words: str) -> None:
    answer = post(server, body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_the_only_instance_is_wrong(server: Server) -> None:
    answer = post(server, {"instances": [WRONG]})
    assert answer.status_code == 400
    assert answer.json()["predictions"][0]["error"]["type"] == "invalid_request"


def test_tensors(server: Server) -> None:
    inputs = [
        tensor("prompt", "BYTES", QUICK["prompt"], OTHER["prompt"]),
        tensor("seed", "INT64", 7, 8),
        tensor("num_inference_steps", "INT32", 2, 3),
    ]
    answer = post(server, {"id": "4", "inputs": inputs}).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("hybridstitch", "1.0", "4")
    outputs = {each["name"]: each["data"] for each in answer["outputs"]}
    own = [encoded(server.client.generate(**fields))[0] for fields in (QUICK, OTHER)]
    assert [base64.b64decode(each) for each in outputs["image"]] == own
    assert outputs["seed"] == [7, 8]
    assert json.loads(outputs["report"][1])["seed"] == 8
    wrong = post(server, {"inputs": [*inputs[:1], tensor("seed", "INT64", 7, -8)]})
    assert wrong.status_code == 400
    assert wrong.json()["error"].startswith("request 2 of 2: seed: expected")


@pytest.mark.parametrize("dialect", ["openai", "kserve-v1", "kserve-v2", "own"])
def test_a_comparison_takes_every_dialect(server: Server, dialect: str) -> None:
    path = "/1.0/v1/images/generations" if dialect == "openai" else ""
    fields = f"num_inference_steps=2&output_format=webp&dialect={dialect}"
    endpoint = open_endpoint(parse_endpoint(f"{server.url}/predictions/hybridstitch{path}#{fields}"), server.token())
    answer = endpoint.ask(QUICK["prompt"], 7)
    assert answer.picture, answer.error
    assert answer.extension == "webp"
    own = server.client.generate(**QUICK, output_format="webp")
    assert answer.picture == encoded(own)[0]
    assert answer.report is not None
    assert answer.report["seed"] == 7
