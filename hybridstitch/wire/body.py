"""What a client may send: JSON, a form, or plain text. All become the fields of a request."""

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
"""Fields of a form that are taken as they stand; the values of all others are JSON."""
WHOLE = ("data", "body")
"""Fields of a form, and keys over gRPC, that hold a whole body."""
MODEL_NAME = "model_name"
"""What TorchServe's route /invocations has in its query."""


def decode_body(values: Mapping[str, Any], content_type: str, types: Mapping[str, str]) -> Any:
    """The fields in a body over HTTP.

    Args:
        values: by key, as TorchServe gives them: a body under `body`, the fields of a form under their names.
        content_type: what the client says of the body; without it, and for text, see `_decode_whole`.
        types: the content types of a form's parts.

    Raises:
        InvalidInput: for another content type, broken JSON, text that is not UTF-8, and a form without fields.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in FORMS:
        if not values or any(name.lstrip().startswith("{") for name in values):
            # JSON that is labelled as a form, as curl does: nothing is left of it, or a part of it as a name.
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
    """The fields in a form, or in the input of a gRPC call: one of WHOLE, or each field by itself."""
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
    """A JSON value that may still be text. Raises InvalidInput if it is none."""
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        return json.loads(value.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput([Problem(field, "valid JSON in UTF-8", str(error))]) from error


def _decode_whole(field: str, value: Any) -> Any:
    """A body that may be JSON: it is if it starts with `{`, or with `[{`, which is refused later; else the prompt."""
    if not isinstance(value, bytes | bytearray | str):
        return value  # TorchServe has parsed it
    text = _text(field, value)
    is_json = re.match(r"\s*(\{|\[\s*\{)", text)
    return parse_json(text.encode(errors="surrogatepass"), field) if is_json else {"prompt": text}


def _form_fields(values: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, Any]:
    """A request from one value for each field. An empty value is null: not set."""
    problems: list[Problem] = []
    found = {}
    for name, value in values.items():
        if types.get(name, "").startswith("image/"):
            size = f", {len(value)} bytes" if isinstance(value, bytes | bytearray) else ""
            problems.append(Problem(name[:80], "no image: none is taken", f"{types[name]}{size}"))
        elif isinstance(value, bytes | bytearray | str):
            try:
                found[name] = _value(name, _text(name[:80], value))
            except InvalidInput as error:
                problems.extend(error.problems)
        else:
            found[name] = value  # a part that says that it is JSON
    raise_problems(problems)
    return found


def _text(name: str, value: Any) -> str:
    try:
        return value.decode("utf-8-sig") if isinstance(value, bytes | bytearray) else str(value or "")
    except UnicodeDecodeError as error:
        expected = "text in UTF-8; no image and no other file is taken"
        raise InvalidInput([Problem(name, expected, _shown(value))]) from error


def _value(name: str, text: str) -> Any:
    """The JSON value of a form's text; text that is none stays what it is, and the field's own check refuses it."""
    if not text:
        return None
    if name in TEXT_FIELDS or (name == "recipe" and not text.lstrip().startswith("{")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Any) -> Any:
    """A value for a message: bytes that are no text as their number."""
    try:
        return value.decode() if isinstance(value, bytes | bytearray) else value
    except UnicodeDecodeError:
        return f"{len(value)} bytes"
