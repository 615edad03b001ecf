"""The same request means the same by every way in, and what is not set is not set everywhere."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ts.utils.util import PredictionException

from hybridstitch.errors import InvalidInput
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.wire.body import decode_body, decode_fields
from hybridstitch.wire.fields import request_schema
from hybridstitch.wire.question import explanation_schema, parse_explanation
from hybridstitch.wire.request import parse_request
from hybridstitch.wire.rules import request_rules
from tests.support.bad_requests import LIMITS
from tests.support.handlers import call

FORM, PARTS, JSON, TEXT = "application/x-www-form-urlencoded", "multipart/form-data", "application/json", "text/plain"
REQUEST = {"prompt": "x", "seed": 1, "num_inference_steps": 1, "recipe": "small", "guidance_scale": 2.5}
BODY = json.dumps(REQUEST).encode()
BY_KEY = {name: str(value).encode() for name, value in REQUEST.items()}
WAYS: list[tuple[str | None, dict[str, Any]]] = [
    (JSON, {"body": REQUEST}),
    (JSON, {"body": BODY}),
    ("", {"body": BODY}),
    ("", {"body": b"\xef\xbb\xbf  " + BODY}),
    (TEXT, {"body": BODY}),
    (FORM, BY_KEY),
    (FORM, {"data": BODY}),
    (PARTS, {"body": BODY}),
    (PARTS, {"data": BODY.decode()}),  # a part that says that it is text
    (PARTS, {"data": REQUEST}),  # or JSON
    (None, {"data": BODY}),
    (None, {"body": BODY}),
    (None, BY_KEY),
]
"""Content type, None over gRPC, and the row that TorchServe makes of it."""
PROMPTS: list[tuple[str | None, dict[str, Any]]] = [
    ("", {"body": "a 🍎".encode()}),
    (TEXT, {"body": "a 🍎"}),
    (PARTS, {"data": "a 🍎".encode()}),
    (FORM, {"body": "a 🍎".encode()}),
    (FORM, {"prompt": "a 🍎".encode()}),
    (None, {"data": "a 🍎".encode()}),
]


@pytest.fixture(scope="module")
def catalogue(emoji: Path) -> Catalogue:
    return Catalogue.load().of_pair(emoji)


def headers(content_type: str | None) -> dict[str, str]:
    return {} if content_type is None else {"Content-Length": "1", "Content-Type": content_type}


def decode(content_type: str | None, row: dict[str, Any]) -> Any:
    return decode_fields(row, {}) if content_type is None else decode_body(row, content_type, {})


def test_a_body_gives_the_same_answer_by_every_way_in(handler: Any) -> None:
    answers, _ = call(handler, [row for _, row in WAYS], [headers(content_type) for content_type, _ in WAYS])
    alone = [call(handler, [row], headers(content_type))[0][0] for content_type, row in WAYS[:1]]
    assert alone[0].startswith(b"\x89PNG")
    assert len(set(answers)) == 1


@pytest.mark.parametrize(("content_type", "row"), PROMPTS)
def test_text_is_the_prompt(content_type: str | None, row: dict[str, Any]) -> None:
    assert decode(content_type, row) == {"prompt": "a 🍎"}


@pytest.mark.parametrize(
    ("content_type", "row", "fields", "words"),
    [
        (FORM, {}, {"body"}, "Content-Type: application/json"),
        (FORM, {'{"prompt": "a': b'b"}'}, {"body"}, "Content-Type: application/json"),
        ("", {"body": b"{'prompt': 'x'}"}, {"body"}, "valid JSON"),
        (TEXT, {"body": b'{"prompt": "x",}'}, {"body"}, "valid JSON"),
        ("", {"body": b'[{"prompt": "x"},'}, {"body"}, "valid JSON"),
        ("", {"body": b"\x89PNG\xff"}, {"body"}, "no image"),
        ("image/png", {"body": b"\x89PNG\xff"}, {"content-type"}, "no image"),
        (PARTS, {"prompt": b"x", "image": b"\x89PNG\xff"}, {"image"}, "no image"),
        (PARTS, {"data": BODY, "seed": b"3", "nonsense": b"\xff"}, {"seed", "nonsense"}, "nothing beside data"),
        (None, {"data": BODY, "seed": b"3", "nonsense": b"x"}, {"seed", "nonsense"}, "nothing beside data"),
        (None, {"data": BODY, "body": BODY}, {"body"}, "nothing beside data"),
        (JSON, {"body": REQUEST, "model_name": "x", "seed": "5"}, {"seed"}, "nothing in the query"),
    ],
)
def test_a_body_that_cannot_be_read_says_what_to_send(
    content_type: str | None, row: dict[str, Any], fields: set[str], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        decode(content_type, row)
    assert {problem.field for problem in refused.value.problems} == fields


def test_an_uploaded_image_is_named_as_such(handler: Any) -> None:
    sent = {"Content-Length": "1", "Content-Type": PARTS, "image": {"content-type": "image/png"}}
    (answer,), _ = call(handler, [{"prompt": b"x", "image": b"abc"}], [sent])
    (problem,) = json.loads(answer)["error"]["problems"]
    assert problem == {"field": "image", "expected": "no image: none is taken", "got": "image/png, 3 bytes"}


def test_null_and_an_empty_value_of_a_form_mean_not_set(catalogue: Catalogue) -> None:
    """Every field of the schemas, so that new ones are covered."""
    defaults = {"seed": 5, "num_inference_steps": 7, "recipe": "small", "negative_prompt": "red"}
    expected = parse_request({"prompt": "x"}, defaults, LIMITS, catalogue).to_dict()
    names = request_schema(LIMITS, {}, catalogue)["properties"].keys() - {"prompt"}
    assert len(names) >= 17
    for name in names:
        assert parse_request({"prompt": "x", name: None}, defaults, LIMITS, catalogue).to_dict() == expected, name
        form = decode(FORM, {"prompt": b"x", name: b""})
        assert parse_request(form, defaults, LIMITS, catalogue).to_dict() == expected, name
    everything = {"prompt": "x", **dict.fromkeys(names)}
    assert parse_request(everything, defaults, LIMITS, catalogue).to_dict() == expected
    schema = json.loads(json.dumps(request_schema(LIMITS, {}, catalogue)))
    assert all(Draft202012Validator(schema).is_valid(each) for each in (everything, everything | {"speed": 1.5}))
    assert parse_request(everything | {"speed": 1.5}, defaults, LIMITS, catalogue).generation.speed == 1.5
    explained = explanation_schema(LIMITS, {}, catalogue)["properties"].keys() - {"prompt"}
    request, question = parse_explanation({"prompt": "x"}, defaults, LIMITS, catalogue)
    again = parse_explanation({"prompt": "x", **dict.fromkeys(explained)}, defaults, LIMITS, catalogue)
    assert (again[0].to_dict(), again[1]) == (request.to_dict(), question)
    described = {"name": "hybridstitch", "plan": {"share": None}, "mask": None, "fill": None, "step_share": None}
    named = parse_request({"prompt": "x", "recipe": described}, {}, LIMITS, catalogue)
    assert named.generation.recipe == catalogue.recipes["hybridstitch"]


@pytest.mark.parametrize(
    ("defaults", "sent", "found"),
    [
        ({"response_format": "image"}, {"num_images": 2}, {"response_format": "json"}),
        ({"stream": True, "response_format": "json"}, {"response_format": "image"}, {"stream": False}),
        ({"stream": True, "previews": 2}, {"stream": False}, {"previews": 0}),
        ({"region": [0, 0, 128, 128]}, {"width": 64}, {"region": None}),
        ({"num_images": 8}, {"seed": 2**53 - 1}, {"num_images": 1}),
        ({"width": 64, "height": 64}, {"region": [0, 0, 128, 64]}, {"width": 128, "height": 64}),
        ({"speed": 1.5}, {"recipe": "small"}, {"speed": None}),
    ],
)
def test_a_default_is_never_blamed_for_what_was_sent(
    catalogue: Catalogue, defaults: dict[str, Any], sent: dict[str, Any], found: dict[str, Any]
) -> None:
    request = parse_request({"prompt": "x", **sent}, defaults, LIMITS, catalogue)
    values = {**vars(request), "num_images": request.num_images, **vars(request.generation)}
    assert {name: values[name] for name in found} == found


VALUES: dict[str, tuple[Any, ...]] = {
    "stream": (True, False),
    "previews": (2, 0),
    "response_format": ("image", "json"),
    "num_images": (1, 8),
    "seed": (0, 2**53 - 1, 2**53 - 3),
    "region": ([0, 0, 64, 64], [64, 64, 128, 128], [0, 64, 64, 128]),
    "width": (64, 128),
    "height": (64, 128),
    "recipe": ("small", {"plan": "all"}),
    "speed": (1.5,),
    "num_inference_steps": (2, 9),
}
"""Values, right by themselves, of every field that a rule between fields is about."""
OF_EXPLANATIONS: dict[str, tuple[Any, ...]] = {"steps_explained": (2, 5), "target": ("region", "mask")}


def some_of(values: dict[str, tuple[Any, ...]], chance: random.Random, most: int) -> dict[str, Any]:
    return {name: chance.choice(values[name]) for name in chance.sample(list(values), chance.randint(1, most))}


def answered(ask: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What comes of a request, or None if it is refused."""
    try:
        return ask(*arguments, **options)
    except InvalidInput:
        return None


def test_the_values_cover_every_rule(catalogue: Catalogue) -> None:
    known = {name for rule in request_rules(LIMITS, can_stream=True) for name in rule.fields}
    assert known <= VALUES.keys()


@pytest.mark.parametrize("can_stream", [True, False])
def test_defaults_give_way_to_what_was_sent(catalogue: Catalogue, can_stream: bool) -> None:
    """What is right without defaults is right with them; and only those give way that do not fit."""
    chance, tried, fitted = random.Random(0), 0, 0
    for _ in range(400):
        sent, defaults = {"prompt": "x", **some_of(VALUES, chance, 3)}, some_of(VALUES, chance, 5)
        if None in (
            answered(parse_request, each, {}, LIMITS, catalogue) for each in ({"prompt": "x"} | defaults, sent)
        ):
            continue
        if answered(parse_request, sent, {}, LIMITS, catalogue, can_stream=can_stream) is None:
            continue
        tried += 1
        request = parse_request(sent, defaults, LIMITS, catalogue, can_stream=can_stream, request_id="1")
        made = {**vars(request), **request.to_dict()}
        for name in sent.keys() - {"recipe"}:
            assert made.get(name) in (sent[name], tuple(sent["region"]) if name == "region" else None), defaults
        everything = {"seed": request.seed, **defaults, **sent}
        together = answered(
            parse_request, everything, {}, LIMITS, catalogue, can_stream=can_stream, request_id="1"
        )  # fmt: skip
        if together is not None:
            fitted += 1
            assert request == together, (sent, defaults)
    assert tried > fitted > 20


def test_defaults_give_way_to_an_explanation(catalogue: Catalogue) -> None:
    chance, tried = random.Random(0), 0
    fields = {name: VALUES[name] for name in ("region", "width", "height", "recipe", "num_inference_steps")}
    for _ in range(400):
        sent, defaults = {"prompt": "x"} | some_of(fields | OF_EXPLANATIONS, chance, 3), some_of(VALUES, chance, 5)
        if answered(parse_request, {"prompt": "x"} | defaults, {}, LIMITS, catalogue) is None:
            continue
        if answered(parse_explanation, sent, {}, LIMITS, catalogue) is None:
            continue
        tried += 1
        request, question = parse_explanation(sent, defaults, LIMITS, catalogue)
        assert question.steps_explained == sent.get("steps_explained", min(4, request.generation.num_inference_steps))
    assert tried > 50


def test_a_default_is_not_blamed_beside_a_wrong_field(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_request({"prompt": "x", "width": 1, "stream": False}, {"stream": True, "previews": 2}, LIMITS, catalogue)
    assert [problem.field for problem in refused.value.problems] == ["width"]


def test_an_explanation_of_few_steps_needs_no_other_field(catalogue: Catalogue) -> None:
    for steps in (1, 3, 4, 28):
        _, question = parse_explanation({"prompt": "x", "num_inference_steps": steps}, {}, LIMITS, catalogue)
        assert question.steps_explained == min(4, steps)


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        ({"prompt": "x", "width": 1, "region": [8, 0, 0, 8]}, ["width", "region"]),
        ({"prompt": "x", "recipe": "nope", "speed": 1.5}, ["speed", "recipe"]),
        ({"prompt": "x", "recipe": "small", "speed": 0.5}, ["speed", "speed"]),
        ({"prompt": "x", "seed": -1, "stream": 1, "speed": 0, "colour": "red"}, ["colour", "seed", "stream", "speed"]),
    ],
)
def test_everything_wrong_is_named_at_once(catalogue: Catalogue, sent: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_request(sent, {}, LIMITS, catalogue)
    assert [problem.field for problem in refused.value.problems] == fields


def test_the_words_of_an_explanation_are_counted_beside_other_problems(catalogue: Catalogue) -> None:
    sent = {"prompt": "a " * 65, "width": 1, "num_inference_steps": 3, "steps_explained": 5, "target": "Mask"}
    with pytest.raises(InvalidInput) as refused:
        parse_explanation(sent, {}, LIMITS, catalogue)
    assert [problem.field for problem in refused.value.problems] == ["target", "width", "steps_explained", "prompt"]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"promt": "x"}, "prompt"),
        ({"Seed": 1}, "seed"),
        ({"steps": 4}, "num_inference_steps"),
        ({"guidance": 4}, "guidance_scale"),
        ({"steps": 4, "num_inference_step": 4}, "num_inference_steps"),
        ({"recipe": "hybridstich"}, "hybridstitch"),
        ({"output_format": "PNG"}, "png"),
        ({"recipe": {"name": "hybridstitch", "plan": {"shares": 0.5}}}, "share"),
        ({"recipe": {"name": "hybridstitch", "mask": {"type": "Random"}}}, "random"),
    ],
)
def test_an_unknown_name_is_told_the_nearest_known_one(catalogue: Catalogue, sent: dict[str, Any], meant: str) -> None:
    with pytest.raises(InvalidInput, match=rf"; did you mean {meant}\?"):
        parse_request({"prompt": "x", **sent}, {}, LIMITS, catalogue)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (25.5, 25.5),
        (2**60, 2**60),
        ([8, 0, 0, 8], [8, 0, 0, 8]),
        ({"a": None}, {"a": None}),
        (None, None),
        (float("nan"), "nan"),
        ("y" * 200, "'" + "y" * 76 + "..."),
        ([0] * 100, "[" + "0, " * 25 + "0..."),
    ],
)
def test_a_refused_value_comes_back_as_it_was_sent(handler: Any, value: Any, got: Any) -> None:
    (answer,), _ = call(handler, [{"body": {"prompt": "x", "colour": value}}])
    assert json.loads(answer)["error"]["problems"][0]["got"] == got


def test_a_value_nested_beyond_the_stack_is_refused(handler: Any) -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    (answer,), context = call(handler, [{"body": {"explain": deep}}])
    assert context.get_response_status(0)[0] == 400
    assert json.loads(answer)["error"]["problems"][0]["field"] == "explain"


@pytest.mark.parametrize(
    ("named", "header", "echoed"),
    [
        (None, "from-a-proxy", "from-a-proxy"),
        ("mine", "from-a-proxy", "mine"),
        (None, "a" * 129, None),
        (None, "a\r\nx: 1", None),
        (None, "é", None),
    ],
)
def test_the_callers_id_is_echoed_and_logged(
    handler: Any, caplog: pytest.LogCaptureFixture, named: str | None, header: str, echoed: str | None
) -> None:
    sent = {"Content-Length": "1", "Content-Type": JSON, "X-Request-Id": header}
    body = {"prompt": "x", "num_inference_steps": 1, "request_id": named}
    rows = [{"body": body}, {"body": body | {"width": 1}}, {"body": b"{"}]
    with caplog.at_level(logging.INFO):
        answers, context = call(handler, rows, [sent] * 3)
    found = [context.get_response_headers(index).get("x-hybridstitch-request-id") for index in range(3)]
    refused = json.loads(answers[1])["error"].get("request_id")
    if echoed is None:
        assert len(found[0] or "") == 32
        assert found[1:] == [None, None]
        assert refused is None
    else:
        assert found[:2] == [echoed, echoed]
        assert found[2] == header  # what the body names is not known there
        assert refused == echoed
        assert f"request {echoed}" in caplog.text


def test_a_refusal_over_grpc_is_logged_in_one_line(handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    service = logging.getLogger("ts.service")
    with caplog.at_level(logging.INFO):
        try:
            call(handler, [{"prompt": b"secret words", "width": b"1", "colour": b"secret"}], [{}])
        except PredictionException:
            service.error("Prediction error", exc_info=True)  # as TorchServe's worker does
        try:
            raise PredictionException("another handler's", 400)
        except PredictionException:
            service.error("Prediction error", exc_info=True)
    assert "secret" not in caplog.text
    assert caplog.text.count("Traceback") == 1
    assert "colour, width" in caplog.text
