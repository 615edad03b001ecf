"""What a client may send as a body: JSON, a form, or plain text. All become the fields of a request."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from hybridstitch.errors import InvalidInput, Problem

TYPES = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
TEXT_FIELDS = ("prompt", "negative_prompt", "output_format", "response_format", "request_id")
"""Fields of a form that are taken as they stand; the values of all others are JSON."""


def decode_body(values: Mapping[str, Any], content_type: str) -> Any:
    """The fields in a body over HTTP: `values` by key, as TorchServe gives them.

    Plain text is the prompt. In a form each field is a key; a recipe may be a bare name there.
    Raises InvalidInput for another content type, broken JSON, and text that is not UTF-8.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return parse_json(values.get("body"))
    if kind == "text/plain":
        return {"prompt": _text("body", values.get("body"))}
    if kind in TYPES:
        return form_fields(values)
    raise InvalidInput([Problem("content-type", f"one of: {', '.join(TYPES)}", content_type)])


def parse_json(value: Any, field: str = "body") -> Any:
    """A JSON value that may still be text. Raises InvalidInput if it is none."""
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        return json.loads(value.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidInput([Problem(field, "valid JSON in UTF-8", str(error))]) from error


def form_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """A request from one text value for each field."""
    problems: list[Problem] = []
    found = {}
    for name, value in values.items():
        try:
            text = _text(name, value)
        except InvalidInput as error:
            problems.extend(error.problems)
            continue
        found[name] = text if name in TEXT_FIELDS else _value(name, text)
    if problems:
        raise InvalidInput(problems)
    return found


def _text(name: str, value: Any) -> str:
    try:
        return value.decode() if isinstance(value, bytes | bytearray) else str(value or "")
    except UnicodeDecodeError as error:
        raise InvalidInput([Problem(name, "text in UTF-8", str(error))]) from error


def _value(name: str, text: str) -> Any:
    """The JSON value of a form's text; text that is none stays what it is, and the field's own check refuses it."""
    if name == "recipe" and not text.lstrip().startswith("{"):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value
