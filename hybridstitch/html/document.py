"""Pieces of HTML that the pages share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself keeps the page from loading anything."""
FIT_A_PHONE = 3
"""Columns of a table."""
LONGEST_VALUE = 400
"""Characters of a setting that are shown."""


def document(title: str, body: str, policy: str = POLICY, more_style: str = "") -> str:
    """A whole page with the style of this project, and more of it if a page has its own."""
    style = files("hybridstitch.html").joinpath("page.css").read_text()
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}{more_style}</style></head>\n<body><main>\n{body}</main></body></html>\n"
    )


def definitions(values: Mapping[str, Any]) -> str:
    """Names and values, escaped, long ones cut."""

    def text(value: Any) -> str:
        said = value if isinstance(value, str) else json.dumps(value)
        return escape(said if len(said) <= LONGEST_VALUE else said[:LONGEST_VALUE] + "…")

    pairs = (f"<div><dt>{escape(name)}</dt><dd>{text(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{"".join(pairs)}</dl>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Heads and rows of HTML, that is, escaped by the caller; the first cell of a row is its head."""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return scroll(whole, len(heads) > FIT_A_PHONE)


def scroll(content: str, wide: bool) -> str:
    """A box that scrolls sideways by itself. wide: whether a phone cuts the content, which a line then says there."""
    hint = '<p class="hint">Scroll sideways to see all of it \u2192</p>' if wide else ""
    return f'{hint}<div class="scroll" tabindex="0">{content}</div>'


def tiles(found: Sequence[tuple[str, str, str]]) -> str:
    """Cards with a name, a large figure and a small line below it, escaped by the caller."""
    cells = "".join(
        f"<div><dt>{name}</dt><dd><b>{value}</b><small>{below}</small></dd></div>" for name, value, below in found
    )
    return f'<dl class="tiles">{cells}</dl>\n'


def as_float(value: float | None) -> float:
    """NaN for the null of JSON."""
    return math.nan if value is None else value


def figure(value: float | None, spec: str) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:{spec}}"


def between(interval: Mapping[str, Any], spec: str) -> str:
    """The ends of an interval."""
    return f"{figure(interval['low'], spec)} to {figure(interval['high'], spec)}"
