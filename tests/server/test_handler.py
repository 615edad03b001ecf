"""The handlers on TorchServe's own context objects, without a server: batches, gRPC and failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ts.utils.util import PredictionException

from tests.support.handlers import QUICK, call, make_handler


@pytest.fixture(scope="module", params=["hybridstitch_handler", "plain_sd3_handler"])
def handler(request: pytest.FixtureRequest, tiny: Path) -> Any:
    return make_handler(request.param, tiny)


def test_one_wrong_request_of_a_batch_leaves_the_others_alone(handler: Any) -> None:
    rows = [{"body": QUICK}, {"body": QUICK | {"seed": -1}}, {"body": QUICK}]
    answers, context = call(handler, rows)
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 400, 200]
    assert answers[0] == answers[2]
    assert answers[0].startswith(b"\x89PNG")
    (problem,) = json.loads(answers[1])["error"]["problems"]
    assert problem == {"field": "seed", "expected": "an integer within 0..9007199254740991, or null", "got": -1}


def test_an_unexpected_error_is_that_requests_500(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(requests: Any, _progress: Any) -> None:
        raise KeyError(f"secret of {requests[0].generation.prompts}")

    monkeypatch.setattr(handler.service, "generate", fail)
    answers, context = call(handler, [{"body": QUICK | {"request_id": "r-1"}}])
    assert context.get_response_status(0)[0] == 500
    error = json.loads(answers[0])["error"]
    assert (error["type"], error["request_id"]) == ("internal_error", "r-1")
    assert "secret" not in error["message"]


def test_latents_that_are_not_finite_are_a_numerical_error(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_requests: Any, _progress: Any) -> None:
        raise FloatingPointError("latents: not finite after denoising")

    monkeypatch.setattr(handler.service, "generate", fail)
    answers, context = call(handler, [{"body": QUICK}])
    assert context.get_response_status(0)[0] == 500
    assert json.loads(answers[0])["error"]["type"] == "numerical_error"


def test_over_grpc_a_picture_ends_the_stream_and_an_error_is_raised(handler: Any) -> None:
    # No header arrives over gRPC, and JSON arrives as bytes under the key of the call's input.
    answers, context = call(handler, [{"data": bytearray(json.dumps(QUICK).encode())}], headers={})
    assert answers[0].startswith(b"\x89PNG")
    assert context.get_response_headers(0)["ts_stream_next"] == "false"
    with pytest.raises(PredictionException) as raised:
        call(handler, [{"data": bytearray(b'{"prompt": ""}')}], headers={})
    assert raised.value.error_code == 400
    assert json.loads(raised.value.message)["error"]["problems"][0]["field"] == "prompt"


def test_over_grpc_a_wrong_request_does_not_fail_its_batch(handler: Any) -> None:
    rows = [{"data": bytearray(json.dumps(QUICK | changes).encode())} for changes in ({}, {"seed": -1})]
    answers, _ = call(handler, rows, headers={})
    assert answers[0].startswith(b"\x89PNG")
    assert json.loads(answers[1])["error"]["problems"][0]["field"] == "seed"


def test_http_answers_do_not_speak_of_streams(handler: Any) -> None:
    _, context = call(handler, [{"body": QUICK}])
    assert "ts_stream_next" not in context.get_response_headers(0)


def test_an_error_answer_stays_small(handler: Any) -> None:
    unknown = {f"{index}" * 5000: "x" * 5000 for index in range(60)}
    answers, _ = call(handler, [{"body": QUICK | unknown}])
    assert len(answers[0]) < 100_000
