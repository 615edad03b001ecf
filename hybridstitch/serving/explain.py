"""What a client may ask of an explanation: a request to draw, and a question about the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hybridstitch.catalogue import Catalogue
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.pair import SizeLimits
from hybridstitch.schema import Schema, integer, mismatch
from hybridstitch.serving.fields import request_schema
from hybridstitch.serving.request import GenerationRequest, parse_request, raise_if_shapeless

IN_BAND = "explain"
"""The field that holds the whole request where its address does not say that it is an explanation, as over gRPC."""
TARGETS = ("mask", "region", "image")
METHODS = ("ablation", "integrated_gradients")
FIXED: Mapping[str, Any] = {"num_images": 1, "stream": False, "previews": 0, "response_format": "json"}
"""Fields of a prediction that can be nothing else in an explanation: it is one document about one picture."""


@dataclass(frozen=True)
class Question:
    """What to explain of a generation, and how; see `hybridstitch.explain.explain`."""

    target: str = "mask"
    method: str = "ablation"
    steps_explained: int = 4


def question_fields() -> dict[str, Schema]:
    """The fields that an explanation has beside those of a prediction."""
    return {
        "target": {"enum": list(TARGETS)},
        "method": {"enum": list(METHODS)},
        "steps_explained": integer(1, 100),
    }


def explanation_schema(limits: SizeLimits, defaults: Mapping[str, Any], catalogue: Catalogue) -> Schema:
    """The JSON Schema of a whole request for an explanation; as in `request_schema`, without rules between fields."""
    schema = request_schema(limits, defaults, catalogue)
    own = {name: {**field, "default": getattr(Question, name)} for name, field in question_fields().items()}
    fixed = {name: {"const": value, "default": value} for name, value in FIXED.items()}
    return {**schema, "properties": {**schema["properties"], **fixed, **own}}


def explanation_in(payload: Any, is_explanation: bool) -> Any | None:
    """The fields of the explanation that a decoded payload asks for; None if it asks for a prediction.

    is_explanation: the address says so. Raises InvalidInput for the in-band form with anything beside it.
    """
    if is_explanation:
        return payload
    if not isinstance(payload, dict) or IN_BAND not in payload:
        return None
    if len(payload) > 1 or not isinstance(payload[IN_BAND], dict):
        got = sorted(payload) if len(payload) > 1 else payload[IN_BAND]
        raise InvalidInput([Problem(IN_BAND, "an object with all fields of the explanation, and nothing beside", got)])
    return payload[IN_BAND]


def parse_explanation(
    payload: Any, defaults: Mapping[str, Any], limits: SizeLimits, catalogue: Catalogue
) -> tuple[GenerationRequest, Question]:
    """Check the fields of an explanation and fill in what they leave out; `defaults` are those of predictions.

    Raises InvalidInput with one problem for every wrong field.
    """
    raise_if_shapeless(payload)
    asked = asdict(Question()) | {name: value for name, value in payload.items() if name in question_fields()}
    problems = [
        Problem(name, rule, asked[name])
        for name, schema in question_fields().items()
        if (rule := mismatch(schema, asked[name]))
    ]
    problems += [
        Problem(name, f"{json.dumps(only)} in an explanation", payload[name])
        for name, only in FIXED.items()
        if name in payload and (type(payload[name]), payload[name]) != (type(only), only)
    ]
    if asked["target"] == "region" and payload.get("region", defaults.get("region")) is None:
        problems.append(Problem("region", "[x0, y0, x1, y1] with target region", None))
    generation = {name: value for name, value in payload.items() if name not in asked} | dict(FIXED)
    try:
        request = parse_request(generation, defaults, limits, catalogue, others=tuple(asked))
    except InvalidInput as error:
        raise InvalidInput([*problems, *error.problems]) from error
    if not problems and asked["steps_explained"] > request.num_inference_steps:
        rule = f"at most num_inference_steps, {request.num_inference_steps}"
        problems.append(Problem("steps_explained", rule, asked["steps_explained"]))
    raise_if(problems)
    return request, Question(**asked)
