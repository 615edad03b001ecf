"""The part of JSON Schema that requests need: validation, and the expected value in words."""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

from hybridstitch.base.suggestions import one_of

Schema = dict[str, Any]

_KINDS: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,)}


def integer(low: int, high: int) -> Schema:
    """An integer in a range, ends included."""
    return {"type": "integer", "minimum": low, "maximum": high}


def plain(value: Any) -> Any:
    """A number of numpy's as a Python number; any other value unchanged."""
    if isinstance(value, bool | int | float):
        return float(value) if isinstance(value, float) else value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def mismatch(schema: Schema, value: Any) -> str | None:
    """The expected value in words if `value` does not fit the schema; None if it fits.

    Supports `anyOf`, `enum` of strings, and `type` with its limits, all of which are required but `multipleOf`.
    `$comment` describes a `pattern` in words. Unlike in JSON Schema, 2.0 is no integer.
    """
    if _fits(schema, value):
        return None
    words = expected(schema)
    if "multipleOf" in schema and (type(value) is int or (type(value) is float and math.isfinite(value))):
        step, low, high = schema["multipleOf"], schema["minimum"], schema["maximum"]
        words += f"; the nearest is {round(min(max(value, low), high) / step) * step}"
    if "enum" in schema:
        words = one_of(schema["enum"], value)
    return words


def expected(schema: Schema) -> str:
    """The schema in words."""
    if "anyOf" in schema:
        return ", or ".join(expected(each) for each in schema["anyOf"])
    if "enum" in schema:
        return f"one of: {', '.join(schema['enum'])}"
    kind = schema["type"]
    if kind == "array":
        return f"a list of {schema['minItems']}, each {expected(schema['items'])}"
    if kind == "string":
        length = f"a string of {schema['minLength']} to {schema['maxLength']} characters"
        return f"{length}, {schema['$comment']}"
    if kind in ("integer", "number"):
        step = schema.get("multipleOf")
        words = f"a multiple of {step}" if step else f"{'an' if kind == 'integer' else 'a'} {kind}"
        return f"{words} within {schema['minimum']}..{schema['maximum']}"
    return {"boolean": "true or false", "null": "null"}[kind]


def _fits(schema: Schema, value: Any) -> bool:
    if "anyOf" in schema:
        return any(_fits(each, value) for each in schema["anyOf"])
    if "enum" in schema:
        return isinstance(value, str) and value in schema["enum"]
    kind = schema["type"]
    if kind == "null":
        return value is None
    if kind == "string":
        return (
            isinstance(value, str)
            and schema["minLength"] <= len(value) <= schema["maxLength"]
            and re.fullmatch(schema["pattern"], value) is not None
        )
    if type(value) not in _KINDS[kind]:  # a bool is not an integer here
        return False
    if kind == "array":
        return len(value) == schema["minItems"] and all(_fits(schema["items"], each) for each in value)
    if kind == "boolean":
        return True
    in_range = schema["minimum"] <= value <= schema["maximum"]  # false for NaN
    return in_range and ("multipleOf" not in schema or value % schema["multipleOf"] == 0)
