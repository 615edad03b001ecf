"""The request as JSON Schema: one table validates requests and is published in the endpoint's description."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from hybridstitch.base.schema import Schema, integer
from hybridstitch.base.texts import text_schema
from hybridstitch.model.lora_files import MOST_SCALE
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.recipe.names import AXES, TEXT, UNNAMED
from hybridstitch.wire.names import MAX_IMAGES, MAX_SEED

if TYPE_CHECKING:
    from hybridstitch.recipe.catalogue import Catalogue
    from hybridstitch.strategy import Parameter
_NULL: Schema = {"type": "null"}

BUILT_IN_DEFAULTS: dict[str, Any] = {
    "prompt": None,
    "negative_prompt": "",
    "seed": None,
    "num_inference_steps": 28,
    "guidance_scale": 4.5,
    "num_images": 1,
    "region": None,
    "lora": None,
    "output_format": "png",
    "output_quality": 90,
    "stream": False,
    "previews": 0,
    "deadline_ms": None,
}
"""Values of fields that neither the client nor the operator sets."""


def request_fields(limits: SizeLimits) -> dict[str, Schema]:
    """Return the schema of every field but `recipe`, `speed` and `lora`, whose values depend on what the pair has."""
    return {
        "prompt": text_schema(),
        "negative_prompt": text_schema(required=False),
        "seed": {"anyOf": [integer(0, MAX_SEED), {"type": "null"}]},
        "num_inference_steps": integer(1, 100),
        "guidance_scale": {"type": "number", "minimum": 0, "maximum": 20},
        "width": limits.side,
        "height": limits.side,
        "num_images": integer(1, MAX_IMAGES),
        "region": {
            "anyOf": [
                {"type": "array", "items": integer(0, limits.maximum), "minItems": 4, "maxItems": 4},
                {"type": "null"},
            ]
        },
        "output_format": {"enum": ["png", "jpeg", "webp"]},
        "output_quality": integer(1, 100),
        "response_format": {"enum": ["image", "json"]},
        "stream": {"type": "boolean"},
        "previews": integer(0, 8),
        "deadline_ms": {"anyOf": [integer(1, MAX_SEED), {"type": "null"}]},
        "request_id": {  # a header echoes it, so no character may end or split one
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "pattern": "^[ -~]*$",
            "$comment": "of printable ASCII",
        },
    }


def request_schema(
    limits: SizeLimits, defaults: Mapping[str, Any], catalogue: Catalogue | None, loras: Collection[str] = ()
) -> Schema:
    """Return the JSON Schema of a whole request. It lacks rules between fields, such as a region within the picture.

    Args:
        limits: The picture sizes of the pair.
        defaults: Values of fields that a request leaves out.
        catalogue: What a recipe may name; None for an endpoint without recipes.
        loras: The names of the adapters that a request may name.
    """
    properties = request_fields(limits)
    scale = {"type": "number", "minimum": -MOST_SCALE, "maximum": MOST_SCALE}
    properties["lora"] = {
        "type": "object",
        "properties": dict.fromkeys(sorted(loras), scale),
        "additionalProperties": False,
    }
    rules: Schema = {}
    if catalogue:
        properties["recipe"] = {"anyOf": [{"enum": list(catalogue.recipes)}, _recipe_object(catalogue)]}
        rules["$defs"] = {axis: _axis(catalogue, axis) for axis in AXES}
        properties["speed"] = {"type": "number", "minimum": 1, "maximum": catalogue.fastest}
        rules["not"] = _set("recipe", "speed")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            name: (schema if name == "prompt" else nullable(schema))
            | ({"default": defaults[name]} if name in defaults else {})
            for name, schema in properties.items()
        },
        "required": ["prompt"],
        "additionalProperties": False,
        **rules,
    }


def nullable(schema: Schema) -> Schema:
    """Return the schema of a field that may also be null, which means "not set"."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    choices = schema.get("anyOf", [schema])
    return {"anyOf": [*choices, *([] if _NULL in choices else [_NULL])]}


def _set(*names: str) -> Schema:
    """Return the schema of an object that has all these fields, none of them null."""
    return {"required": list(names), "properties": {name: {"not": _NULL} for name in names}}


def _recipe_object(catalogue: Catalogue) -> Schema:
    named = list(catalogue.recipes)
    properties: dict[str, Schema] = {
        "name": {"enum": [*named, *UNNAMED]},
        **{axis: {"$ref": f"#/$defs/{axis}"} for axis in AXES},
        "step_share": {"type": "number", "minimum": 0.01, "maximum": 1},
        "text": {"enum": [*TEXT]},
    }
    properties = {name: nullable(schema) for name, schema in properties.items()}
    starts_from_one = {"properties": {"name": {"enum": named}}, "required": ["name"]}
    return {
        "type": "object",
        "properties": properties,
        "anyOf": [starts_from_one, _set("plan")],
        "additionalProperties": False,
    }


def _axis(catalogue: Catalogue, axis: str) -> Schema:
    """Return the schema of every strategy of an axis, as a name or an object with parameters.

    An object without a type changes parameters of the named recipe's strategy.
    """
    described = [
        {
            "type": "object",
            "properties": {
                "type": {"const": name},
                **{key: nullable(_parameter(each, axis)) for key, each in strategy.parameters().items()},
            },
            "additionalProperties": False,
        }
        for name, strategy in catalogue.strategies[axis].items()
    ]
    return {"anyOf": [{"enum": list(catalogue.strategies[axis])}, *described]}


def _parameter(parameter: Parameter, axis: str) -> Schema:
    if parameter.nested:
        return {"$ref": f"#/$defs/{axis}"}
    if parameter.type is tuple:
        return {"type": "array", "items": {"type": "number"}, "minItems": 1}
    schema: Schema = {"type": {float: "number", int: "integer", bool: "boolean", str: "string"}[parameter.type]}
    if parameter.range:
        schema |= {"minimum": parameter.range.low, "maximum": parameter.range.high}
    return schema
