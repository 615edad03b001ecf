"""Validation of the fields of an explanation: a request for a picture, and a question about it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from inspect import signature
from typing import Any

from hybridstitch.base.schema import Schema, integer, mismatch
from hybridstitch.base.words import word_problem
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.region import Region
from hybridstitch.wire.fields import nullable, request_schema
from hybridstitch.wire.names import IN_BAND
from hybridstitch.wire.request import GenerationRequest, draft_request, raise_if_shapeless
from hybridstitch.wire.rules import Rule

FIXED: Mapping[str, Any] = {"num_images": 1, "stream": False, "previews": 0, "response_format": "json"}
"""Fields of a prediction that have one value in an explanation, which is one document about one picture."""
MAX_GRADIENT_STEPS = 256


@dataclass(frozen=True)
class Question:
    """What to explain of a generation, and how; the arguments of `explain_generation`.

    Attributes:
        target: `mask`, `region` or `image`.
        method: `ablation` or `integrated_gradients`.
        region: The pixels in question with target `region`, otherwise None.
        steps_explained: How many steps to explain, at least 1.
        gradient_steps: Points on the path of integrated gradients, 1 to 256.
    """

    target: str
    method: str
    steps_explained: int
    gradient_steps: int
    region: Region | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the request that ask this question."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        return fields | ({"region": list(self.region)} if self.region else {})


def question_fields() -> dict[str, Schema]:
    """Return the schemas of the fields that an explanation has beside those of a prediction."""
    from hybridstitch.explain import METHODS, TARGETS, explain
    from hybridstitch.explain.explain import STEPS_EXPLAINED

    schemas: dict[str, Schema] = {
        "target": {"enum": list(TARGETS)},
        "method": {"enum": list(METHODS)},
        "steps_explained": integer(1, 100),
        "gradient_steps": integer(1, MAX_GRADIENT_STEPS),
    }
    defaults = signature(explain).parameters
    values = {name: defaults[name].default for name in schemas} | {"steps_explained": STEPS_EXPLAINED}
    return {name: {**schema, "default": values[name]} for name, schema in schemas.items()}


def explanation_schema(
    limits: SizeLimits, defaults: Mapping[str, Any], catalogue: Catalogue, loras: Collection[str] = ()
) -> Schema:
    """Return the JSON Schema of a request for an explanation; as in `request_schema`, without rules between fields."""
    schema = request_schema(limits, defaults, catalogue, loras)
    fixed = {name: {"enum": [value, None], "default": value} for name, value in FIXED.items()}
    question = {name: nullable(each) for name, each in question_fields().items()}
    return {**schema, "properties": {**schema["properties"], **fixed, **question}}


def explanation_in(payload: Any, is_explanation: bool) -> Any | None:
    """Return the fields of the explanation that a decoded payload requests; None if it requests a prediction.

    Args:
        payload: The decoded body.
        is_explanation: Whether it came to the address of explanations.

    Raises:
        InvalidInput: The payload has the in-band form with other fields beside it.
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
    payload: Any,
    defaults: Mapping[str, Any],
    limits: SizeLimits,
    catalogue: Catalogue,
    request_id: str | None = None,
    loras: Collection[str] = (),
) -> tuple[GenerationRequest, Question]:
    """Validate the fields of an explanation and fill in what they leave out.

    Args:
        payload: The fields.
        defaults: The operator's, for predictions.
        limits, catalogue, loras: As in `parse_request`.
        request_id: For a payload that names none.

    Raises:
        InvalidInput: Names every wrong field.
    """
    raise_if_shapeless(payload)
    schemas = question_fields()
    sent = {name: value for name, value in payload.items() if value is not None or name not in {*FIXED, *schemas}}
    asked = {name: sent.pop(name, schema["default"]) for name, schema in schemas.items()}
    problems = [
        Problem(name, rule, asked[name]) for name, schema in schemas.items() if (rule := mismatch(schema, asked[name]))
    ]
    wrong = {problem.field for problem in problems}
    fields = {**defaults, **{name: value for name, value in sent.items() if value is not None}}
    if asked["target"] == "mask" and fields.get("recipe") is fields.get("speed") is None:
        sent["recipe"] = catalogue.masked
    chosen = {name: None if name in wrong else payload.get(name) for name in schemas}
    draft = draft_request(
        sent | dict(FIXED),
        defaults,
        limits,
        catalogue,
        others=chosen,
        more_rules=[_STEPS],
        request_id=request_id,
        loras=loras,
    )
    steps = draft.values["num_inference_steps"]
    if payload.get("steps_explained") is None and "num_inference_steps" not in draft.wrong:
        asked["steps_explained"] = min(asked["steps_explained"], steps)
    problems += [
        Problem(name, f"{json.dumps(only)} in an explanation", sent[name])
        for name, only in FIXED.items()
        if name in sent and (type(sent[name]), sent[name]) != (type(only), only)
    ]
    if asked["target"] == "region" and draft.values["region"] is None:
        problems.append(Problem("region", "[x0, y0, x1, y1] with target region", None))
    problems += draft.problems
    if "prompt" not in draft.wrong and (too_many := word_problem(draft.values["prompt"])):
        problems.append(too_many)
    raise_problems(problems)
    request = draft.request()
    if asked["target"] != "region":
        return request, Question(**asked)
    # With target region, the region belongs to the question: it had no part in the picture.
    unbound = replace(request.generation, region=None)
    return replace(request, generation=unbound), Question(**asked, region=request.generation.region)


def _steps(values: Mapping[str, Any]) -> Problem | None:
    explained, steps = values.get("steps_explained"), values.get("num_inference_steps")
    if explained is None or steps is None or explained <= steps:
        return None
    return Problem("steps_explained", f"at most num_inference_steps, {steps}", explained)


_STEPS = Rule(("steps_explained", "num_inference_steps"), _steps)
