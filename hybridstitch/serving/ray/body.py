"""Splits the body of a request into values, as TorchServe does before a worker gets them."""

from __future__ import annotations

import json
from email import policy
from email.parser import BytesParser
from typing import Any
from urllib.parse import parse_qsl

from hybridstitch.wire.body import FORMS, JSON


def values_of(body: bytes, content_type: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a request by key, and the content types of those that are parts of a form.

    Args:
        body: The whole body.
        content_type: Its header.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == FORMS[0]:
        return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True)), {}
    if kind == FORMS[1]:
        return _parts(body, content_type)
    return {"body": body}, {}


def _parts(body: bytes, content_type: str) -> tuple[dict[str, Any], dict[str, str]]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode(errors="replace")
    values: dict[str, Any] = {}
    types: dict[str, str] = {}
    try:
        message = BytesParser(policy=policy.HTTP).parsebytes(head + body)
    except RecursionError:  # a form inside of a form, hundreds of times
        return values, types
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str):
            types[name] = part.get_content_type() if "content-type" in part else ""
            values[name] = _value(part.get_payload(decode=True), types[name])
    return values, types


def _value(content: Any, content_type: str) -> Any:
    if content_type == JSON:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return content  # the worker reports what is wrong with it
    return content
