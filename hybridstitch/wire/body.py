"""Decodes a body that a client sends, JSON, a form or plain text, into the fields of a request."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from hybridstitch.errors import InvalidInput, Problem, raise_problems

JSON, TEXT = "application/json", "text/plain"
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
TEXT_FIELDS = ("prompt", "negative_prompt", "output_format", "response_format", "request_id")
"""Fields of a form that are texts. The values of all others are JSON."""
WHOLE = ("data", "body")
"""Fields of a form, and keys over gRPC, whose value is a complete body."""
MODEL_NAME = "model_name"
"""The field that TorchServe's route /invocations has in its query."""


def decode_body(values: Mapping[str, Any], content_type: str, types: Mapping[str, str]) -> Any:
    """The fields in a body over HTTP.

    Args:
        values: By key, as TorchServe passes them: a body under `body`, the fields of a form under their names.
        content_type: The header of the request. Without it, and for text, a body may be JSON or a prompt.
        types: The content types of a form's parts.

    Raises:
        InvalidInput: For another content type, broken JSON, text that is not UTF-8, and a form without fields.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in FORMS:
        if not values or any(name.lstrip().startswith("{") for name in values):
            # JSON that is labelled as a form, as curl does: TorchServe keeps nothing of it, or a part as a name.
            expected = f"fields in a form; JSON needs the header Content-Type: {JSON}"
            raise InvalidInput([Problem("body", expected, "a form without fields")])
        return decode_fields(values, types)
    in_query = [name for name in values if name not in ("body", MODEL_NAME)]
    raise_problems(
        [Problem(name[:80], "nothing in the query: fields go into the body", values[name]) for name in in_query]
    )
    body = values.get("body")
    if kind == JSON:
        return parse_json(body)
    if kind in ("", TEXT):  # browsers label JSON as text
        return _decode_whole("body", body)
    expected = f"one of: {', '.join((JSON, *FORMS, TEXT))}; no image and no other file is taken"
    raise InvalidInput([Problem("content-type", expected, content_type)])


def decode_fields(values: Mapping[str, Any], types: Mapping[str, str]) -> Any:
    """The fields in a form or in the input of a gRPC call: one value of `WHOLE`, or one value for each field."""
    holder = next((name for name in WHOLE if name in values), None)
    if holder is None:
        return _form_fields(values, types)
    raise_problems(
        [
            Problem(name[:80], f"nothing beside {holder}, which holds the whole request", _shown(value))
            for name, value in values.items()
            if name != holder
        ]
    )
    return _decode_whole(holder, values[holder])


def parse_json(value: Any, field: str = "body") -> Any:
    """Decode bytes as JSON; other values are returned. Raises InvalidInput for bytes that are not JSON."""
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        return json.loads(value.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput([Problem(field, "valid JSON in UTF-8", str(error))]) from error


def field_value(name: str, text: str) -> Any:
    """The JSON value of a text in a form or a tensor. Other text is returned, and the check of the field refuses it."""
    if not text:
        return None
    if name in TEXT_FIELDS or (name == "recipe" and not text.lstrip().startswith("{")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value


def _decode_whole(field: str, value: Any) -> Any:
    """Decode a body that starts with `{` or `[{` as JSON; any other text is the prompt."""
    if not isinstance(value, bytes | bytearray | str):
        return value  # TorchServe has parsed it
    text = _text(field, value)
    is_json = re.match(r"\s*(\{|\[\s*\{)", text)
    return parse_json(text.encode(errors="surrogatepass"), field) if is_json else {"prompt": text}


def _form_fields(values: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a request, one value for each. An empty value means null."""
    problems: list[Problem] = []
    found = {}
    for name, value in values.items():
        if types.get(name, "").startswith("image/"):
            size = f", {len(value)} bytes" if isinstance(value, bytes | bytearray) else ""
            problems.append(Problem(name[:80], "no image: none is taken", f"{types[name]}{size}"))
        elif isinstance(value, bytes | bytearray | str):
            try:
                found[name] = field_value(name, _text(name[:80], value))
            except InvalidInput as error:
                problems.extend(error.problems)
        else:
            found[name] = value  # a part whose content type is JSON
    raise_problems(problems)
    return found


def _text(name: str, value: Any) -> str:
    try:
        return value.decode("utf-8-sig") if isinstance(value, bytes | bytearray) else str(value or "")
    except UnicodeDecodeError as error:
        expected = "text in UTF-8; no image and no other file is taken"
        raise InvalidInput([Problem(name, expected, _shown(value))]) from error


def _shown(value: Any) -> Any:
    """A value for a message. Bytes that are no text become their number."""
    try:
        return value.decode() if isinstance(value, bytes | bytearray) else value
    except UnicodeDecodeError:
        return f"{len(value)} bytes"
