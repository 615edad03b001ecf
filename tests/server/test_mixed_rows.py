"""Rows of several dialects in one batch, on TorchServe's own context objects: each in its form, no neighbour harmed."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ts.utils.util import PredictionException

from hybridstitch.serving.worker.metrics import Metrics
from hybridstitch.serving.worker.row import Row
from hybridstitch.wire.dialects.openai import PATH
from hybridstitch.wire.documents import Response
from hybridstitch.wire.names import REQUEST_START
from tests.support.handlers import CONFIG, HTTP, QUICK, call, make_handler

OPENAI = HTTP | {"url_path": PATH}
TENSOR = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["x"]}
STEPS = {"name": "num_inference_steps", "shape": [1], "datatype": "INT32", "data": [1]}
SEED = {"name": "seed", "shape": [1], "datatype": "INT64", "data": [1]}
V2 = {"inputs": [TENSOR, STEPS, SEED]}
STREAMED = {"openai": {"partial_images": 1}, "own": {"previews": 1}}


def file_of(document: dict[str, Any]) -> bytes:
    """The only picture of an own document."""
    (picture,) = document["data"]
    return base64.b64decode(picture["b64_json"])


class Counts(list[tuple[str, ...]]):
    """The labels of every request that a worker counted."""

    def add(self, name: str, value: float, labels: Sequence[str]) -> None:
        if name == "HybridStitchRequests":
            self.append(tuple(labels))


def streamed(handler: Any, fields: dict[str, Any], dialect: str) -> tuple[Response, list[Response]]:
    """The last piece of a stream, and those before it."""
    pieces: list[Response] = []
    path = PATH if dialect == "openai" else ""
    row = Row({"body": fields}, {"content-type": "application/json"}, pieces.append, path=path)
    (answer,) = handler.service.answer([row], Metrics(Counts()))
    return answer, pieces


def test_rows_of_all_dialects_in_one_batch(handler: Any) -> None:
    wrong = QUICK | {"width": 1}
    bodies = [QUICK, {"instances": [QUICK, wrong, QUICK]}, V2, QUICK, {"n": 99}, wrong, {"inputs": [TENSOR, TENSOR]}]
    headers = [HTTP, HTTP, HTTP, OPENAI, OPENAI, HTTP, HTTP]
    answers, context = call(handler, [{"body": body} for body in bodies], headers)
    statuses = [context.get_response_status(index)[0] for index in range(len(bodies))]
    assert statuses == [200, 200, 200, 200, 400, 400, 400]
    own = answers[0]
    predictions = json.loads(answers[1])["predictions"]
    report = predictions[0]["report"]
    assert report["batch_size"] == 5  # all valid requests are alike, so they shared a tensor
    assert file_of(predictions[0]) == file_of(predictions[2]) == own
    assert predictions[1]["error"]["problems"][0]["field"] == "width"
    outputs = {each["name"]: each["data"] for each in json.loads(answers[2])["outputs"]}
    assert base64.b64decode(outputs["image"][0]) == own
    assert file_of(json.loads(answers[3])) == own
    assert json.loads(answers[4])["error"]["type"] == "invalid_request_error"
    assert json.loads(answers[5])["error"]["type"] == "invalid_request"
    assert "inputs.prompt: expected" in json.loads(answers[6])["error"]
    workers = {context.get_response_headers(index)["x-hybridstitch-worker"] for index in range(len(bodies))}
    assert len(workers) == 1


def test_each_request_of_a_row_is_counted(handler: Any) -> None:
    asked = QUICK | {"recipe": "small"}
    rows: list[Any] = [
        {"instances": [asked, asked | {"width": 1}, asked | {"deadline_ms": 1}]},
        {"inputs": [TENSOR, TENSOR]},
        {"inputs": [TENSOR, {"name": "seed", "shape": [2], "datatype": "INT64", "data": [1, -1]}]},
    ]
    sent = {"content-type": "application/json", REQUEST_START: f"t={time.time() - 60:.3f}"}
    counts = Counts()
    handler.service.answer([Row({"body": body}, sent, lambda _: None) for body in rows], Metrics(counts))
    refused = ("none", "none", "invalid_request")
    late = ("prediction", "small", "deadline_exceeded")
    assert sorted(counts) == sorted([("prediction", "small", "ok"), late, refused, refused, refused])


def test_each_instance_has_its_deadline(handler: Any) -> None:
    late = HTTP | {REQUEST_START: f"t={time.time() - 60:.3f}"}
    instances = [QUICK, QUICK | {"deadline_ms": 1000}, QUICK | {"deadline_ms": 600_000}]
    (answer,), context = call(handler, [{"body": {"instances": instances}}], late)
    first, second, third = json.loads(answer)["predictions"]
    assert context.get_response_status(0)[0] == 200
    assert second["error"]["type"] == "deadline_exceeded"
    assert file_of(first) == file_of(third)


def test_a_body_with_many_pictures_is_behind_its_neighbours(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All share the time limit of the batch. None can share a forward here."""
    generated: list[str] = []
    generate = handler.service.generate

    def noted(asked: Any, progress: Any) -> Any:
        generated.extend(request.generation.prompts.texts["prompt"][0] for request in asked)
        return generate(asked, progress)

    monkeypatch.setattr(handler.service, "generate", noted)
    many = [QUICK | {"prompt": "many", "num_inference_steps": steps} for steps in (1, 2, 3)]
    two = QUICK | {"prompt": "two", "num_images": 2, "num_inference_steps": 4, "response_format": "json"}
    one = QUICK | {"prompt": "one", "num_inference_steps": 5}
    answers, context = call(handler, [{"body": body} for body in ({"instances": many}, two, one)])
    assert generated == ["one", "two", "many", "many", "many"]
    assert [context.get_response_status(index)[0] for index in range(3)] == [200] * 3
    assert [len(json.loads(answers[0])["predictions"]), len(json.loads(answers[1])["data"])] == [3, 2]


def test_one_wrong_row_of_tensors_generates_nothing(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generated: list[int] = []
    generate = handler.service.generate
    monkeypatch.setattr(
        handler.service, "generate", lambda asked, progress: generated.append(len(asked)) or generate(asked, progress)
    )
    seeds = {"name": "seed", "shape": [2], "datatype": "INT64", "data": [1, -1]}
    answers, context = call(handler, [{"body": {"inputs": [TENSOR, STEPS, seeds]}}, {"body": QUICK}])
    assert context.get_response_status(0)[0] == 400
    assert json.loads(answers[0])["error"].startswith("request 2 of 2: seed")
    assert generated == [1]


@pytest.mark.parametrize("dialect", ["openai", "own"])
def test_a_stream_is_never_longer_than_the_server_allows(
    handler: Any, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    """A piece that is too long is left out; an end that is too long is an error, as an event once a piece was sent."""
    fields = QUICK | {"num_inference_steps": 4, "stream": True} | STREAMED[dialect]
    whole, sent = streamed(handler, fields, dialect)
    assert whole.outcome == "ok"
    longest = max(len(piece.body) for piece in sent)
    assert len(whole.body) > longest

    def limited(content: int) -> tuple[Response, list[Response]]:
        settings = replace(handler.service.settings, max_response_bytes=2**16 + content)
        monkeypatch.setattr(handler.service, "settings", settings)
        return streamed(handler, fields, dialect)

    end, pieces = limited(longest)
    assert len(pieces) == len(sent)
    assert (end.status, end.outcome, end.content_type) == (200, "response_too_large", sent[0].content_type)
    shorter, pieces = limited(longest - 1)
    assert len(pieces) < len(sent)
    assert shorter.outcome == "response_too_large"
    nothing, pieces = limited(0)
    assert pieces == []
    assert (nothing.status, nothing.content_type) == (500, "application/json")


def test_all_requests_of_a_body_have_a_bounded_number_of_pictures(handler: Any) -> None:
    (answer,), context = call(handler, [{"body": {"instances": [QUICK | {"num_images": 8}] * 5}}])
    assert context.get_response_status(0)[0] == 400
    assert json.loads(answer)["error"] == "num_images: expected at most 32 pictures of all requests together, got 40"


def test_an_operators_default_to_stream_is_for_the_own_dialect_alone(tiny: Path) -> None:
    defaults = CONFIG["handler"]["defaults"] | {"stream": True, "previews": 2}
    config = CONFIG | {"handler": CONFIG["handler"] | {"defaults": defaults}}
    handler = make_handler("hybridstitch_handler", tiny, config)
    answers, context = call(
        handler, [{"body": QUICK}, {"body": {"instances": [QUICK]}}, {"body": V2}], [OPENAI, HTTP, HTTP]
    )
    assert [context.get_response_status(index)[0] for index in range(3)] == [200] * 3
    assert [key for key in ("data", "predictions", "outputs") for each in answers if key in json.loads(each)] == [
        "data",
        "predictions",
        "outputs",
    ]


def test_bodies_of_kserve_over_grpc(handler: Any) -> None:
    (own,), _ = call(handler, [{"body": QUICK}])
    (first,), _ = call(handler, [{"data": json.dumps({"instances": [QUICK]}).encode()}], [{}])
    (second,), _ = call(handler, [{"data": json.dumps(V2).encode()}], [{}])
    assert file_of(json.loads(first)["predictions"][0]) == own
    assert base64.b64decode(json.loads(second)["outputs"][0]["data"][0]) == own
    with pytest.raises(PredictionException, match="instances: expected"):
        call(handler, [{"data": b'{"instances": []}'}], [{}])


def test_an_answer_over_the_limit_is_an_error_of_its_dialect(tiny: Path) -> None:
    config = CONFIG | {"handler": CONFIG["handler"] | {"max_response_bytes": 2**16 + 3000}}
    handler = make_handler("hybridstitch_handler", tiny, config)
    bodies = [QUICK | {"response_format": "json"}, {"instances": [QUICK] * 3}, QUICK, V2]
    answers, context = call(handler, [{"body": body} for body in bodies], [HTTP, HTTP, OPENAI, HTTP])
    assert [context.get_response_status(index)[0] for index in range(4)] == [500] * 4
    documents = [json.loads(answer)["error"] for answer in answers]
    assert documents[0]["type"] == documents[2]["code"] == "response_too_large"
    assert all("the server allows" in str(each) for each in documents)
    assert context.get_response_headers(2)["x-should-retry"] == "false"


def test_an_error_of_a_whole_body_over_the_limit_is_an_error_too(tiny: Path) -> None:
    """It names many wrong fields. TorchServe ends a worker for a long error as for a long picture."""
    config = CONFIG | {"handler": CONFIG["handler"] | {"max_response_bytes": 2**16 + 3000}}
    handler = make_handler("hybridstitch_handler", tiny, config)
    wrong = {f"{number}{'long' * 15}": "value" * 20 for number in range(50)}
    bodies = [{"instances": [QUICK], **wrong}, {"inputs": [TENSOR], **wrong}]
    answers, context = call(handler, [{"body": body} for body in bodies])
    for index, answer in enumerate(answers):
        assert context.get_response_status(index)[0] == 500
        assert "the server allows" in json.loads(answer)["error"]


@pytest.mark.parametrize(("path", "status"), [("", 200), ("/", 200), (PATH, 200), ("v1/images", 404), ("colour", 404)])
def test_unknown_paths_are_refused(handler: Any, path: str, status: int) -> None:
    (answer,), context = call(handler, [{"body": QUICK}], HTTP | {"url_path": path})
    assert context.get_response_status(0)[0] == status
    assert (b"expected no path" in answer) == (status == 404)
