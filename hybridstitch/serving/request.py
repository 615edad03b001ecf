"""What a client may ask for: one table of fields, every wrong one named at once."""

from __future__ import annotations

import secrets
import unicodedata
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from hybridstitch.catalogue import Catalogue
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.pair import SizeLimits
from hybridstitch.recipes import Recipe

MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact
MAX_FIELDS = 64  # bounds the error answer: a request with more is refused as a whole
MAX_DEPTH = 16  # no valid request nests deeper, and deeper ones could exhaust Python's stack

Check = Callable[[Any], "str | None"]
"""Takes a value and says what was expected instead, or None if the value is fine."""

BUILT_IN_DEFAULTS: dict[str, Any] = {
    "prompt": None,
    "negative_prompt": "",
    "seed": None,
    "num_inference_steps": 28,
    "guidance_scale": 4.5,
    "output_format": "png",
    "output_quality": 90,
    "response_format": "image",
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
    recipe: Recipe | None
    speed: float | None
    output_format: str
    output_quality: int
    response_format: str
    request_id: str

    def to_dict(self) -> dict[str, Any]:
        """The request that makes this very picture again; `request_id` names an exchange, so it is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["request_id"]
        recipe, speed = values.pop("recipe"), values.pop("speed")
        chosen = {} if recipe is None else {"recipe": recipe.to_dict()}
        return values | chosen | ({} if speed is None else {"speed": speed})


def parse_request(
    payload: Any, defaults: Mapping[str, Any], limits: SizeLimits, catalogue: Catalogue | None = None
) -> GenerationRequest:
    """Check a decoded JSON payload and fill in what it leaves out.

    `defaults` come from the operator and override the built-in ones; a None in it means "not set".
    Without a `catalogue` the endpoint has no recipes and the field is unknown.
    Raises InvalidInput with one problem for every wrong field.
    """
    _raise_if_shapeless(payload)
    width, height = limits.default
    checks = field_checks(limits)
    known = [*checks, "recipe", "speed"] if catalogue else [*checks]
    values = {
        **BUILT_IN_DEFAULTS,
        "width": width,
        "height": height,
        "request_id": uuid.uuid4().hex,
        **{name: value for name, value in defaults.items() if value is not None},
        **payload,
    }
    problems = [
        Problem(name[:80], f"one of the known fields: {', '.join(known)}", value)
        for name, value in values.items()
        if name not in known
    ]
    for name, check in checks.items():
        if expected := check(values[name]):
            problems.append(Problem(name, expected, values[name]))
    recipe, speed = None, None
    if catalogue:
        asked, speed = values.pop("recipe", catalogue.default), values.pop("speed", None)
        if {"speed", "recipe"} <= payload.keys():
            problems.append(Problem("speed", "no recipe beside it", speed))
        if "recipe" in payload and "speed" not in payload:
            speed = None  # the operator's default
        if "speed" in payload or speed is not None:
            problems.extend(catalogue.speed_problems(speed))
        else:
            try:
                recipe = catalogue.resolve(asked)
            except InvalidInput as error:
                problems.extend(error.problems)
    raise_if(problems)
    if values["seed"] is None:
        values["seed"] = secrets.randbelow(MAX_SEED + 1)
    values["guidance_scale"] = float(values["guidance_scale"])
    return GenerationRequest(**values, recipe=recipe, speed=speed)


def field_checks(limits: SizeLimits) -> dict[str, Check]:
    """Every field but `recipe` and `speed`, which the catalogue checks, and what its value must satisfy."""
    return {
        "prompt": _text(1, 2000),
        "negative_prompt": _text(0, 2000),
        "seed": _or_null(_integer(0, MAX_SEED)),
        "num_inference_steps": _integer(1, 100),
        "guidance_scale": _number(0, 20),
        "width": limits.expected,
        "height": limits.expected,
        "output_format": _choice("png", "jpeg", "webp"),
        "output_quality": _integer(1, 100),
        "response_format": _choice("image", "json"),
        "request_id": _identifier(128),
    }


def _raise_if_shapeless(payload: Any) -> None:
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


def _text(minimum: int, maximum: int) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, str) or not minimum <= len(value) <= maximum:
            return f"a string of {minimum} to {maximum} characters"
        if any(_is_unprintable(character) for character in value):
            return "a string without control characters and unpaired surrogates"
        return None

    return check


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r"


def _identifier(maximum: int) -> Check:
    # It is echoed in a header, so nothing that could end or split one may pass.
    def check(value: Any) -> str | None:
        is_fine = isinstance(value, str) and 1 <= len(value) <= maximum and value.isascii()
        return None if is_fine and value.isprintable() else f"1 to {maximum} printable ASCII characters"

    return check


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> str | None:
        is_fine = type(value) is int and low <= value <= high  # a bool is not an integer here
        return None if is_fine else f"an integer within {low}..{high}"

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> str | None:
        is_fine = type(value) in (int, float) and low <= value <= high  # false for NaN
        return None if is_fine else f"a number within {low}..{high}"

    return check


def _choice(*names: str) -> Check:
    def check(value: Any) -> str | None:
        return None if isinstance(value, str) and value in names else f"one of: {', '.join(names)}"

    return check


def _or_null(inner: Check) -> Check:
    def check(value: Any) -> str | None:
        expected = None if value is None else inner(value)
        return expected and f"{expected}, or null"

    return check
