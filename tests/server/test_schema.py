"""The request's JSON Schema, against an independent validator: it takes and refuses what the parser does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from hybridstitch.base.schema import mismatch
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.wire.fields import request_fields, request_schema
from hybridstitch.wire.request import parse_request
from tests.support.bad_requests import BAD_REQUESTS, LIMITS, Bad

BEYOND_A_SCHEMA = {
    # Rules between fields, and what JSON Schema itself takes: 2.0 for an integer, NaN for a number.
    *("seed of the last image too large", "previews without stream", "bytes of a stream", "bytes of two pictures"),
    *("region empty", "region turned", "region outside of a smaller picture", "region fraction"),
    *("recipe stages longer than the schedule", "num_inference_steps fraction", "width fraction"),
    *("speed nan", "guidance_scale nan", "recipe share NaN"),
}


def as_object(bad: Bad) -> dict[str, Any] | None:
    """The body as a JSON object, if it is one."""
    try:
        value = json.loads(bad.body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and bad.content_type == "application/json" else None


@pytest.fixture(scope="module")
def catalogue(emoji: Path) -> Catalogue:
    return Catalogue.load().of_pair(emoji)


@pytest.fixture(scope="module")
def validator(catalogue: Catalogue) -> Draft202012Validator:
    schema = json.loads(json.dumps(request_schema(LIMITS, {"num_inference_steps": 28}, catalogue), allow_nan=False))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("bad", [bad for bad in BAD_REQUESTS if as_object(bad) is not None], ids=lambda bad: bad.name)
def test_what_the_parser_refuses_the_schema_refuses(validator: Draft202012Validator, bad: Bad) -> None:
    assert validator.is_valid(as_object(bad)) == (bad.name in BEYOND_A_SCHEMA)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": None, "region": None, "deadline_ms": None},
        {"width": 32, "height": 128, "num_images": 8, "region": [0, 0, 32, 128]},
        {"stream": True, "previews": 8, "deadline_ms": 1, "request_id": "~ !"},
        {"speed": 1.83},
        {"guidance_scale": 0, "output_format": "webp", "output_quality": 1, "response_format": "json"},
        {"negative_prompt": "tab\tnew\nline \U0001f34e", "num_inference_steps": 100},
        {"recipe": {"plan": "none"}},
        {"recipe": {"name": "hybridstitch", "plan": {"share": 0.5}, "mask": {"type": "dilate", "mask": "edges"}}},
    ],
)
def test_what_the_schema_takes_the_parser_takes(
    validator: Draft202012Validator, catalogue: Catalogue, fields: dict[str, Any]
) -> None:
    payload = {"prompt": "x", **fields}
    validator.validate(payload)
    request = parse_request(payload, {}, LIMITS, catalogue)
    validator.validate(request.to_dict())


def test_every_recipe_and_every_strategy_is_in_it(validator: Draft202012Validator, catalogue: Catalogue) -> None:
    for recipe in catalogue.recipes.values():
        validator.validate({"prompt": "x", "recipe": recipe.to_dict()})
        validator.validate({"prompt": "x", "recipe": recipe.name})
    for tuned in catalogue.tuned:
        validator.validate({"prompt": "x", "recipe": tuned.recipe.to_dict()})
    for axis, classes in catalogue.strategies.items():
        for name in classes:
            validator.validate({"prompt": "x", "recipe": {"name": "hybridstitch", axis: name}})


def test_a_pair_that_was_not_tuned_has_the_speeds_that_need_no_calibration() -> None:
    validator = Draft202012Validator(request_schema(LIMITS, {}, Catalogue.load()))
    assert [validator.is_valid({"prompt": "x", "speed": speed}) for speed in (0.9, 1, 4, 4.1)] == [0, 1, 1, 0]
    assert "recipe" not in request_schema(LIMITS, {}, None)["properties"]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("seed", -1, "an integer within 0..9007199254740991, or null"),
        ("negative_prompt", 5, "a string of 0 to 2000 characters, without control characters and unpaired surrogates"),
        ("output_format", "gif", "one of: png, jpeg, webp"),
        ("width", 101, "a multiple of 8 within 32..128; the nearest is 104"),
        ("stream", 1, "true or false"),
        ("region", [1], "a list of 4, each an integer within 0..128, or null"),
    ],
)
def test_an_error_says_in_words_what_the_schema_wants(field: str, value: Any, expected: str) -> None:
    assert mismatch(request_fields(LIMITS)[field], value) == expected
