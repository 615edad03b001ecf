"""What each dialect makes of a body, and what it makes of results; without a server and without models."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent, ImagesResponse
from PIL import Image

from hybridstitch.errors import InvalidInput
from hybridstitch.wire.dialects.choice import Dialects
from hybridstitch.wire.dialects.dialect import Event, Reading
from hybridstitch.wire.dialects.openai import PATH, OpenAIImages
from hybridstitch.wire.dialects.own import Own
from hybridstitch.wire.failures import UnknownPath, failure_of
from tests.support.dialects import (
    OPENAI,
    QUALITY,
    REPORT,
    TENSOR,
    V2,
    colour,
    document,
    events,
    parser,
    refused,
    rendering,
)

DIALECTS = Dialects(OPENAI, V2)


@pytest.fixture
def parse(emoji: Path) -> Any:
    return parser(emoji)


@pytest.mark.parametrize(
    ("path", "body", "dialect"),
    [
        ("", {"prompt": "x"}, "own"),
        ("", {"promt": "x"}, "own"),
        ("", ["x"], "own"),
        ("", {"explain": {"prompt": "x"}}, "own"),
        ("", {"instances": [{"prompt": "x"}]}, "kserve-v1"),
        ("", {"inputs": [TENSOR]}, "kserve-v2"),
        (PATH, {"prompt": "x"}, "openai"),
        (PATH, {"instances": []}, "openai"),
    ],
)
def test_path_and_shape_choose_the_dialect(path: str, body: Any, dialect: str) -> None:
    DIALECTS.check(path)
    assert DIALECTS.of(path, body).name == dialect


@pytest.mark.parametrize("path", ["v1/images/edits", "v1/chat/completions", "v2", "V1/images/generations", PATH + "/x"])
def test_other_paths_are_not_found(path: str) -> None:
    with pytest.raises(UnknownPath) as error:
        DIALECTS.check(path)
    answer = DIALECTS.at(path).error(failure_of(error.value))
    assert (answer.status, answer.outcome) == (404, "not_found")
    message = document(answer.body)["error"]["message"]
    assert path in message
    assert PATH in message


def test_explanations_have_the_own_dialect_alone() -> None:
    assert DIALECTS.of("", {"instances": []}, is_explanation=True).name == "own"
    with pytest.raises(UnknownPath):
        DIALECTS.check(PATH, is_explanation=True)


@pytest.mark.parametrize(
    ("sent", "own"),
    [
        ({}, {}),
        ({"model": "gpt-image-1", "user": "u-1", "safety_identifier": "s", "quality": "auto", "size": "auto"}, {}),
        ({"background": "opaque", "moderation": "auto", "response_format": "b64_json", "style": None, "n": None}, {}),
        ({"n": 3, "size": "64x128"}, {"num_images": 3, "width": 64, "height": 128}),
        ({"quality": "low"}, {"speed": QUALITY["low"]}),
        ({"quality": "high", "seed": 4}, {"speed": 1.83, "seed": 4}),
        ({"output_format": "webp", "output_compression": 40}, {"output_format": "webp", "output_quality": 40}),
        ({"output_format": "jpeg", "output_compression": 0}, {"output_format": "jpeg", "output_quality": 1}),
        ({"stream": True, "partial_images": 3}, {"stream": True, "previews": 3}),
        ({"recipe": "small", "num_inference_steps": 3, "quality": "auto"},
         {"recipe": "small", "num_inference_steps": 3}),
        ({"num_images": 2, "width": 64, "previews": 5, "stream": True},
         {"num_images": 2, "width": 64, "previews": 5, "stream": True}),
    ],
)  # fmt: skip
def test_openai_fields_mean_ours(parse: Any, sent: dict[str, Any], own: dict[str, Any]) -> None:
    fixed = {"prompt": "x", "seed": 7}
    asked = OPENAI.read(fixed | sent)
    assert len(asked.readings) == 1
    expected = parse(Reading(fixed | own | {"response_format": "json"}))
    assert parse(asked.readings[0]) == expected


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        ({"response_format": "url"}, {"response_format"}),
        ({"background": "transparent", "moderation": "low", "style": "vivid"}, {"background", "moderation", "style"}),
        ({"svg": {"model": "x"}, "frame_count": 3, "frame_duration_ms": 10, "complexity": "low"},
         {"svg", "frame_count", "frame_duration_ms", "complexity"}),
        ({"n": 9}, {"n"}),
        ({"n": 2, "num_images": 2}, {"n"}),
        ({"n": "two", "quality": "hd", "size": "big", "seed": -1}, {"n", "quality", "size", "seed"}),
        ({"size": "100000000x8"}, {"size"}),
        ({"size": "64x64", "width": 64}, {"size"}),
        ({"partial_images": 4, "stream": True}, {"partial_images"}),
        ({"partial_images": 2}, {"partial_images"}),
        ({"output_compression": 101}, {"output_compression"}),
        ({"output_format": "svg"}, {"output_format"}),
        ({"quality": "low", "recipe": "small"}, {"quality"}),
        ({"quality": ["low"]}, {"quality"}),
        ({"prompt": "", "width": 1}, {"prompt", "width"}),
        ({"colour": "red"}, {"colour"}),
    ],
)  # fmt: skip
def test_openai_refuses_by_their_names(parse: Any, sent: dict[str, Any], fields: set[str]) -> None:
    assert refused(parse, OPENAI, {"prompt": "x"} | sent).keys() == fields


def test_a_size_of_two_wrong_sides_is_one_problem_or_two(parse: Any) -> None:
    with pytest.raises(InvalidInput) as error:
        parse(OPENAI.read({"prompt": "x", "size": "1x3"}).readings[0])
    assert [(problem.field, problem.got) for problem in error.value.problems] == [("size", 1), ("size", 3)]


def test_the_operator_decides_what_quality_means(parse: Any) -> None:
    dialect = OpenAIImages({"auto": 2.0, "low": None, "max": 1.0})
    sent = {"prompt": "x", "seed": 1}
    speeds = {"auto": 2.0, "low": None, "max": 1.0}
    for name, speed in speeds.items():
        assert parse(dialect.read(sent | {"quality": name}).readings[0]).generation.speed == speed
    assert parse(dialect.read(sent).readings[0]).generation.speed == 2.0
    named = parse(dialect.read(sent | {"recipe": "small"}).readings[0])
    assert (named.generation.speed, named.generation.recipe.name) == (None, "small")
    assert "one of: auto, low, max" in refused(parse, dialect, sent | {"quality": "high"})["quality"]
    assert refused(parse, OpenAIImages({"auto": None}), sent | {"quality": "low"}).keys() == {"quality"}


def test_what_is_no_object_is_refused_by_every_dialect_of_one_request(parse: Any) -> None:
    for dialect in (Own(), OPENAI):
        assert refused(parse, dialect, [1]).keys() == {"body"}


def test_an_openai_answer_is_what_their_package_reads(parse: Any) -> None:
    sent = {"prompt": "x", "seed": 200, "n": 2, "size": "64x32", "quality": "low", "output_format": "jpeg"}
    asked = OPENAI.read(sent)
    answer = OPENAI.answer(asked, [rendering(parse(asked.readings[0]))])
    assert (answer.status, answer.content_type, answer.headers["x-request-id"]) == (200, "application/json", "id")
    read = ImagesResponse.model_validate_json(answer.body)
    assert (read.size, read.quality, read.output_format, read.background) == ("64x32", "low", "jpeg", "opaque")
    assert read.data is not None
    assert [colour(image.b64_json or "")[0] for image in read.data] == ["JPEG", "JPEG"]
    assert [image.to_dict()["seed"] for image in read.data] == [200, 201]
    assert document(answer.body)["report"] == REPORT


def test_openai_events_are_what_their_package_reads(parse: Any) -> None:
    asked = OPENAI.read(
        {"prompt": "x", "seed": 9, "stream": True, "partial_images": 2, "n": 2, "output_format": "webp"}
    )
    request = parse(asked.readings[0])
    news = {"step": 1, "image": 1, "index": 0, "picture": Image.new("RGB", (8, 8), (30, 0, 0))}
    piece = OPENAI.event(Event("preview", request, news), asked)
    assert piece is not None
    assert piece.content_type == "text/event-stream"
    ((name, data),) = events(piece.body)
    partial = ImageGenPartialImageEvent.model_validate(data)
    assert (name, partial.type) == ("image_generation.partial_image",) * 2
    assert (partial.partial_image_index, partial.size, colour(partial.b64_json)[0]) == (0, "128x128", "WEBP")
    assert OPENAI.event(Event("progress", request, {"step": 1}), asked) is None
    last = OPENAI.ending(asked, rendering(request))
    assert last.content_type == "text/event-stream"
    completed = events(last.body)
    assert [name for name, _ in completed] == ["image_generation.completed"] * 2
    assert [(data["image"], data["seed"]) for _, data in completed] == [(0, 9), (1, 10)]
    assert all(data["type"] == name for name, data in completed)
    without_usage = ImageGenCompletedEvent.model_fields.keys() - {"usage", "safety_identifier"}
    assert all(data.keys() >= without_usage for _, data in completed)


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (FloatingPointError("latents: not finite"), 500, "server_error", "numerical_error"),
        (UnknownPath("path: no"), 404, "invalid_request_error", "not_found"),
        (RuntimeError("secret"), 500, "server_error", "internal_error"),
    ],
)
def test_openai_errors(error: Exception, status: int, kind: str, code: str) -> None:
    answer = OPENAI.error(failure_of(error, "id"))
    found = document(answer.body)["error"]
    assert (answer.status, found["type"], found["code"], found["param"]) == (status, kind, code, None)
    assert "secret" not in found["message"]
    assert answer.headers["x-request-id"] == "id"
    assert (answer.headers.get("x-should-retry") == "false") == (code == "numerical_error")
    ((name, data),) = events(OPENAI.ending(OPENAI.read({"prompt": "x"}), failure_of(error, "id")).body)
    assert (name, data["type"], data["error"]) == ("error", "error", found)


def test_an_openai_error_names_every_field(parse: Any) -> None:
    with pytest.raises(InvalidInput) as error:
        parse(OPENAI.read({"prompt": "", "n": 9, "response_format": "url"}).readings[0])
    answer = OPENAI.error(failure_of(error.value))
    found = document(answer.body)["error"]
    assert (answer.status, found["type"], found["param"]) == (400, "invalid_request_error", "response_format")
    assert [problem["field"] for problem in found["problems"]] == ["response_format", "prompt", "n"]
    assert all(f"{name}: expected" in found["message"] for name in ("response_format", "prompt", "n"))


def test_the_own_dialect_writes_lines(parse: Any) -> None:
    own = Own()
    asked = own.read({"prompt": "x", "seed": 3, "stream": True, "previews": 1})
    request = parse(asked.readings[0])
    news = {"step": 1, "image": 0, "index": 0, "picture": Image.new("RGB", (8, 8))}
    line = json.loads(own.event(Event("preview", request, news), asked).body)
    assert line.keys() == {"event", "step", "image", "format", "b64_json"}
    assert colour(line["b64_json"])[0] == "JPEG"
    assert json.loads(own.event(Event("progress", request, {"step": 1}), asked).body) == {
        "event": "progress",
        "step": 1,
    }
    last = json.loads(own.ending(asked, rendering(request)).body)
    assert (last["event"], last["data"][0]["seed"]) == ("result", 3)
    failed = own.ending(asked, failure_of(FloatingPointError("no"), "id"))
    assert failed.outcome == "numerical_error"
    assert json.loads(failed.body)["error"] == {"type": "numerical_error", "message": "no", "request_id": "id"}


FIELDS = (
    *("prompt", "n", "size", "quality", "model", "stream", "partial_images", "output_compression", "response_format"),
    *("seed", "recipe", "speed", "region", "width", "style", "instances", "inputs", "parameters", "id", "outputs"),
    *("name", "shape", "datatype", "data", "colour"),
)
SCALARS: tuple[Any, ...] = (
    *(0, 1, -1, 64, 2**70, 0.5, float("inf"), float("nan"), True, False, None, "x", "auto", "64x64", "BYTES", "INT64"),
    *("", "\ud800", "b64_json", "{}", "[1]", "9" * 5000),
)


def anything(chance: random.Random, depth: int = 0) -> Any:
    """A value of JSON, often under names that the dialects know."""
    kind = chance.random() if depth < 4 else 0
    if kind < 0.6:
        return chance.choice(SCALARS)
    if kind < 0.8:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(FIELDS): anything(chance, depth + 1) for _ in range(chance.randrange(6))}


def test_no_body_of_any_shape_is_an_unexpected_error(parse: Any) -> None:
    """What is wrong is refused, also where a value is of a kind that has no hash or no finite number."""
    chance, refused = random.Random(0), 0
    for number in range(4000):
        body = {chance.choice(FIELDS): anything(chance) for _ in range(chance.randrange(7))}
        if number % 4 == 0:
            body["instances"] = [{"prompt": "x", chance.choice(FIELDS): anything(chance)}]
        elif number % 4 == 1:
            usual = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["x"]}
            body = {"inputs": [usual | {chance.choice([*usual, "parameters"]): anything(chance)}]}
        path = PATH if number % 4 == 2 else ""
        dialect = DIALECTS.of(path, body)
        try:
            parse(dialect.read(body).readings[0])
        except InvalidInput as error:
            refused += 1
            answer = dialect.error(failure_of(error))
            assert answer.status == 400
            assert document(answer.body)["error"]
    assert refused > 3000
