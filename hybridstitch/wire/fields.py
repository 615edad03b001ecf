"""The request as JSON Schema: the one table that checks requests and that the endpoint's description shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hybridstitch.base.schema import Schema, integer
from hybridstitch.base.texts import text_schema
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.recipe.names import AXES, UNNAMED
from hybridstitch.wire.names import MAX_IMAGES, MAX_SEED

if TYPE_CHECKING:
    from hybridstitch.recipe.catalogue import Catalogue
    from hybridstitch.strategy import Parameter

"""It is echoed in a header, so nothing that could end or split one may pass."""


_NULL: Schema = {"type": "null"}


def request_fields(limits: SizeLimits) -> dict[str, Schema]:
    """Every field but `recipe` and `speed`, which the catalogue checks."""
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
        "request_id": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "pattern": "^[ -~]*$",
            "$comment": "of printable ASCII",
        },
    }


def request_schema(limits: SizeLimits, defaults: Mapping[str, Any], catalogue: Catalogue | None) -> Schema:
    """The JSON Schema of a whole request. Rules between fields, such as a region within the picture, are not in it."""
    properties = request_fields(limits)
    rules: Schema = {}
    if catalogue:
        properties["recipe"] = {"anyOf": [{"enum": list(catalogue.recipes)}, _recipe_object(catalogue)]}
        rules["$defs"] = {axis: _axis(catalogue, axis) for axis in AXES}
        if catalogue.tuned:
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
    """The schema of a field that may also be null: not set."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    choices = schema.get("anyOf", [schema])
    return {"anyOf": [*choices, *([] if _NULL in choices else [_NULL])]}


def _set(*names: str) -> Schema:
    """All of these fields are there, and not null."""
    return {"required": list(names), "properties": {name: {"not": _NULL} for name in names}}


def _recipe_object(catalogue: Catalogue) -> Schema:
    named = list(catalogue.recipes)
    properties: dict[str, Schema] = {
        "name": {"enum": [*named, *UNNAMED]},
        **{axis: {"$ref": f"#/$defs/{axis}"} for axis in AXES},
        "step_share": {"type": "number", "minimum": 0.01, "maximum": 1},
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
    """Every strategy of an axis, by its name or with parameters; without a type they change the named recipe's own."""
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
