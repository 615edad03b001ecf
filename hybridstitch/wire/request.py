"""What a client may ask for: one valid request out of a payload, or every wrong field named at once."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from hybridstitch.base.schema import mismatch
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.pair import SizeLimits
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.recipe.names import AXES
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.region import Region
from hybridstitch.wire.fields import request_fields
from hybridstitch.wire.names import MAX_SEED
from hybridstitch.wire.rules import Rule, is_one_picture, request_rules, settle

MAX_FIELDS = 64  # bounds the error answer: a request with more is refused as a whole
MAX_DEPTH = 16  # no valid request nests deeper, and deeper ones could exhaust Python's stack
DELIVERY = ("request_id", "deadline_ms", "stream", "previews")
"""Fields about the exchange. The picture does not depend on them."""
RECIPE_FIELDS = ("name", *AXES, "step_share")
OF_STITCHING = ("region", "previews")
"""Fields that an endpoint without recipes does not have."""

BUILT_IN_DEFAULTS: dict[str, Any] = {
    "prompt": None,
    "negative_prompt": "",
    "seed": None,
    "num_inference_steps": 28,
    "guidance_scale": 4.5,
    "num_images": 1,
    "region": None,
    "output_format": "png",
    "output_quality": 90,
    "stream": False,
    "previews": 0,
    "deadline_ms": None,
}


@dataclass(frozen=True)
class GenerationRequest:
    """One valid request, every default filled in.

    `recipe` is None on an endpoint that has no recipes, and where the request names a `speed` instead.
    """

    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    width: int
    height: int
    num_images: int
    recipe: Recipe | None
    speed: float | None
    region: Region | None
    output_format: str
    output_quality: int
    response_format: str
    stream: bool
    previews: int
    deadline_ms: int | None
    request_id: str

    @property
    def seeds(self) -> range:
        """The seed of each of its pictures."""
        return range(self.seed, self.seed + self.num_images)

    @property
    def batch_key(self) -> str:
        """Equal for requests whose pictures can be drawn as one tensor."""
        recipe = self.recipe and self.recipe.to_dict()
        return json.dumps(
            [self.width, self.height, self.num_inference_steps, self.guidance_scale, recipe, self.speed, self.region]
        )

    def of_image(self, index: int) -> Self:
        """The request for one of its pictures alone."""
        return replace(self, seed=self.seeds[index], num_images=1)

    def to_dict(self) -> dict[str, Any]:
        """The request that makes these very pictures again, without the fields that are about the exchange."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in DELIVERY}
        recipe, speed, region = values.pop("recipe"), values.pop("speed"), values.pop("region")
        chosen = {} if recipe is None else {"recipe": recipe.to_dict()}
        chosen |= {} if speed is None else {"speed": speed}
        return values | chosen | ({} if region is None else {"region": list(region)})


@dataclass(frozen=True)
class Draft:
    """A request that is checked, but may be wrong: its values, with the defaults, and every problem with them."""

    values: dict[str, Any]
    problems: list[Problem]
    recipe: Recipe | None
    speed: float | None

    @property
    def wrong(self) -> set[str]:
        """The names of the wrong fields."""
        return {problem.field for problem in self.problems}

    def request(self) -> GenerationRequest:
        """The request. Raises InvalidInput with one problem for every wrong field."""
        raise_problems(self.problems)
        values = dict(self.values)
        if values["seed"] is None:
            values["seed"] = secrets.randbelow(MAX_SEED + 2 - values["num_images"])
        values["guidance_scale"] = float(values["guidance_scale"])
        region = values.pop("region")
        return GenerationRequest(**values, recipe=self.recipe, speed=self.speed, region=region and tuple(region))


def parse_request(
    payload: Any,
    defaults: Mapping[str, Any],
    limits: SizeLimits,
    catalogue: Catalogue | None = None,
    *,
    can_stream: bool = True,
    request_id: str | None = None,
) -> GenerationRequest:
    """Check a decoded payload and fill in what it leaves out. Raises InvalidInput with every wrong field.

    Args:
        payload: the fields; null means that a field is not set.
        defaults: the operator's, which override the built-in ones; a None in it means "not set". One that does not
            fit what the payload says gives way to the built-in one.
        catalogue: without it the endpoint has no recipes, and `recipe`, `speed` and OF_STITCHING are unknown.
        can_stream: False over gRPC, see `request_rules`.
        request_id: for a payload that names none; random by default.
    """
    return draft_request(payload, defaults, limits, catalogue, can_stream=can_stream, request_id=request_id).request()


def draft_request(
    payload: Any,
    defaults: Mapping[str, Any],
    limits: SizeLimits,
    catalogue: Catalogue | None = None,
    *,
    others: Mapping[str, Any] | None = None,
    more_rules: Sequence[Rule] = (),
    can_stream: bool = True,
    request_id: str | None = None,
) -> Draft:
    """As `parse_request`, but wrong fields are listed in the draft. Raises InvalidInput for a payload that has none.

    Args:
        others: fields that the caller has taken out, known as well; None for one that is not set or wrong.
        more_rules: between those and the request's own.
    """
    raise_if_shapeless(payload)
    schemas = request_fields(limits)
    if catalogue is None:
        schemas = {name: schema for name, schema in schemas.items() if name not in OF_STITCHING}
    known = [*schemas, "recipe", "speed"] if catalogue else [*schemas]
    sent = {name: value for name, value in payload.items() if value is not None or name not in known}
    operators = {name: value for name, value in defaults.items() if value is not None}
    given = {**operators, **sent}
    width, height = limits.default
    built_in = {**BUILT_IN_DEFAULTS, "width": width, "height": height}
    values = {**built_in, "request_id": request_id or uuid.uuid4().hex, **given}
    others = others or {}
    problems = [
        Problem(name[:80], one_of([*known, *others], name, "one of the known fields"), value)
        for name, value in given.items()
        if name not in known
    ]
    problems += [
        Problem(name, rule, values[name])
        for name, schema in schemas.items()
        if name in values and (rule := mismatch(schema, values[name]))
    ]
    wrong = {problem.field for problem in problems}
    beside = values | {name: value for name, value in others.items() if value is not None}
    rules = [*request_rules(limits, can_stream), *more_rules]
    problems += settle(rules, beside, wrong, operators.keys() - sent.keys(), built_in)
    values = {name: value for name, value in beside.items() if name not in others}
    values.setdefault("response_format", "image" if is_one_picture(values) else "json")
    recipe, speed = _chosen(values, catalogue, problems) if catalogue else (None, None)
    return Draft(values, problems, recipe, speed)


def _chosen(
    values: dict[str, Any], catalogue: Catalogue, problems: list[Problem]
) -> tuple[Recipe | None, float | None]:
    """The recipe that is asked for, or the speed; what is wrong with them joins the problems."""
    is_named = "recipe" in values
    asked, speed = values.pop("recipe", catalogue.default), values.pop("speed", None)
    if speed is not None:
        problems.extend(catalogue.speed_problems(speed))
        if not is_named:
            return None, speed
    if isinstance(asked, dict):
        asked = {name: each for name, each in asked.items() if each is not None or name not in RECIPE_FIELDS}
    try:
        return catalogue.resolve(asked), None
    except InvalidInput as error:
        problems.extend(error.problems)
        return None, None


def raise_if_shapeless(payload: Any) -> None:
    """Raise InvalidInput for a payload that is no object, or too much of one to look into."""
    if not isinstance(payload, dict):
        raise InvalidInput([Problem("body", "a JSON object", _kind(payload))])
    if len(payload) > MAX_FIELDS:
        raise InvalidInput([Problem("body", f"at most {MAX_FIELDS} fields", f"{len(payload)} fields")])
    layer: list[Any] = [payload]
    for _ in range(MAX_DEPTH):
        layer = [child for item in layer for child in _children(item)]
    if layer:
        raise InvalidInput([Problem("body", f"JSON nested at most {MAX_DEPTH} levels deep", "deeper")])


def _children(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
