"""Validation of a payload: one valid request, or every wrong field named at once."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from hybridstitch.base.schema import mismatch
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.generation import Generation
from hybridstitch.model.lora_files import acting_scales, lora_problems
from hybridstitch.model.prompts import NEGATIVE_TEXTS, TEXTS, Prompts
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.recipe.names import RECIPE_FIELDS
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.wire.fields import BUILT_IN_DEFAULTS, request_fields
from hybridstitch.wire.names import MAX_SEED
from hybridstitch.wire.rules import Rule, is_one_picture, request_rules, settle

MAX_FIELDS = 64  # an error names every wrong field, so their number needs a bound
MAX_DEPTH = 16  # no valid request nests deeper, and deeper ones could exhaust Python's stack
DELIVERY = ("request_id", "deadline_ms", "stream", "previews")
"""Fields about the exchange. The picture does not depend on them."""
FORM = ("output_format", "output_quality", "response_format")
"""Fields about the form of the pictures in the answer."""
OF_STITCHING = ("region", "previews")
"""Fields that an endpoint without recipes does not have."""


@dataclass(frozen=True)
class GenerationRequest:
    """One valid request: what to generate, and how to deliver it, with every default filled in.

    Attributes:
        generation: What to generate, with one seed and one copy of the prompt for each picture.
        output_format: `png`, `jpeg` or `webp`.
        output_quality: 1 to 100, for the lossy formats.
        response_format: `image` (bytes of one picture) or `json`.
        stream: Whether to send events during the generation.
        previews: Number of preview pictures in the stream, 0 to 8.
        deadline_ms: Milliseconds after which the client no longer waits; None if it always does.
        request_id: The client's name for the request, or a random one.
    """

    generation: Generation
    output_format: str
    output_quality: int
    response_format: str
    stream: bool
    previews: int
    deadline_ms: int | None
    request_id: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each picture."""
        assert isinstance(self.generation.seeds, tuple)
        return self.generation.seeds

    @property
    def seed(self) -> int:
        """The seed of the first picture; each next picture has the next one."""
        return self.seeds[0]

    @property
    def num_images(self) -> int:
        """The number of pictures."""
        return len(self.seeds)

    def of_image(self, index: int) -> Self:
        """Return the request for one of its pictures alone."""
        return replace(self, generation=self.generation.for_images(index, index + 1))

    def reproducible(self) -> Self:
        """Return the request with its recipe instead of a speed, which may select another recipe after tuning."""
        return replace(self, generation=replace(self.generation, speed=None))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that generate these very pictures again, without those in DELIVERY."""
        texts = {name: each[0] for name, each in self.generation.prompts.texts.items()}
        settings = {name: value for name, value in self.generation.settings().items() if value is not None}
        if "speed" in settings:
            del settings["recipe"]
        form = {name: getattr(self, name) for name in FORM}
        return {**texts, "seed": self.seed, "num_images": self.num_images, **settings, **form}


@dataclass(frozen=True)
class Draft:
    """A request after validation, valid or not.

    Attributes:
        values: Every field but `recipe` and `speed`, with its default where none was sent.
        problems: One for each wrong field.
        recipe: The recipe that the request names or that its speed selects; None if there is none.
        speed: The speed, if the request names one.
    """

    values: dict[str, Any]
    problems: list[Problem]
    recipe: Recipe | None
    speed: float | None

    @property
    def wrong(self) -> set[str]:
        """The names of the wrong fields."""
        return {problem.field for problem in self.problems}

    def request(self) -> GenerationRequest:
        """Return the request. Raises InvalidInput with one problem for every wrong field."""
        raise_problems(self.problems)
        values = dict(self.values)
        images, seed, region = (values.pop(name) for name in ("num_images", "seed", "region"))
        if seed is None:
            seed = secrets.randbelow(MAX_SEED + 2 - images)
        texts = {name: [values.pop(name)] * images for name in (TEXTS[0], NEGATIVE_TEXTS[0])}
        delivery = {name: values.pop(name) for name in (*FORM, *DELIVERY)}
        values["guidance_scale"] = float(values["guidance_scale"])
        if values["lora"] is not None:
            values["lora"] = acting_scales(values["lora"])
        generation = Generation(
            prompts=Prompts(texts, {}, images),
            seeds=tuple(range(seed, seed + images)),
            recipe=self.recipe,
            speed=self.speed,
            region=region and tuple(region),
            **values,
        )
        return GenerationRequest(generation, **delivery)


def parse_request(
    payload: Any,
    defaults: Mapping[str, Any],
    limits: SizeLimits,
    catalogue: Catalogue | None = None,
    *,
    can_stream: bool = True,
    request_id: str | None = None,
    loras: Collection[str] = (),
) -> GenerationRequest:
    """Validate a decoded payload and fill in what it leaves out.

    Args:
        payload: The fields; null means that a field is not set.
        defaults: The operator's, which override the built-in ones; None in it means "not set". One that breaks a
            rule between fields gives way to the built-in one.
        limits: The picture sizes of the pair.
        catalogue: Recipes and strategies; without it `recipe`, `speed` and OF_STITCHING are unknown fields.
        can_stream: False over gRPC, see `request_rules`.
        request_id: For a payload that names none; random by default.
        loras: The names of the adapters that a request may name.

    Raises:
        InvalidInput: Names every wrong field.
    """
    return draft_request(
        payload, defaults, limits, catalogue, can_stream=can_stream, request_id=request_id, loras=loras
    ).request()


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
    loras: Collection[str] = (),
) -> Draft:
    """Validate as `parse_request` does, and list wrong fields in the draft.

    Args:
        others: Further fields that the caller has validated, such as those of a question; None for one that is not
            set or wrong.
        more_rules: Rules between those and the fields of a request.

    Raises:
        InvalidInput: The payload has no fields at all.
    """
    raise_if_shapeless(payload)
    schemas = request_fields(limits)
    if catalogue is None:
        schemas = {name: schema for name, schema in schemas.items() if name not in OF_STITCHING}
    known = [*schemas, "lora", *(("recipe", "speed") if catalogue else ())]
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
    problems += [] if values["lora"] is None else lora_problems(values["lora"], sorted(loras))
    wrong = {problem.field for problem in problems}
    beside = values | {name: value for name, value in others.items() if value is not None}
    rules = [*request_rules(limits, can_stream), *more_rules]
    problems += settle(rules, beside, wrong, operators.keys() - sent.keys(), built_in)
    values = {name: value for name, value in beside.items() if name not in others}
    values.setdefault("response_format", "image" if is_one_picture(values) else "json")
    recipe, speed = _chosen(values, wrong, catalogue, problems) if catalogue else (None, None)
    return Draft(values, problems, recipe, speed)


def _chosen(
    values: dict[str, Any], wrong: set[str], catalogue: Catalogue, problems: list[Problem]
) -> tuple[Recipe | None, float | None]:
    """Take recipe and speed out of the values; return the recipe, and the speed if it selected the recipe.

    What is wrong with them joins the problems.
    """
    asked, speed = values.pop("recipe", None), values.pop("speed", None)
    found = [] if speed is None else catalogue.speed_problems(speed)
    problems.extend(found)
    if asked is None:
        if found or "guidance_scale" in wrong:
            return None, speed
        scale = values["guidance_scale"]
        return catalogue.default(scale) if speed is None else catalogue.at_speed(speed, scale).recipe, speed
    if isinstance(asked, dict):
        asked = {name: each for name, each in asked.items() if each is not None or name not in RECIPE_FIELDS}
    try:
        return catalogue.resolve(asked), None
    except InvalidInput as error:
        problems.extend(error.problems)
        return None, None


def raise_if_shapeless(payload: Any) -> None:
    """Raise InvalidInput for a payload that is no object, or has too many fields or levels."""
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
