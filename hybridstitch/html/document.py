"""Renders pages from the templates of this room.

A page is one file: it holds its own styles and pictures and loads nothing. Every value is escaped, unless it is
`Markup`, which only the plots return.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

LONGEST_VALUE = 400
"""Characters of a setting that a page shows."""


def render_page(template: str, **values: Any) -> str:
    """Fill a template of `html/templates`, such as `shadow.html`.

    Args:
        template: the file's name.
        values: what the template names. A name without a value is an error.

    Returns:
        The HTML of the whole page.
    """
    return _TEMPLATES.get_template(template).render(values)


def figure(value: float | None, spec: str) -> str:
    """A number in the format `spec`; a dash for None."""
    return "-" if value is None else f"{value:{spec}}"


def percent(share: float | None) -> str:
    """A share of 1 in whole percent, without the sign; a dash for None."""
    return "-" if share is None else f"{100 * share:.0f}"


def between(interval: Mapping[str, Any], spec: str) -> str:
    """The ends of an interval, its keys `low` and `high`, in the format `spec`."""
    return f"{figure(interval['low'], spec)} to {figure(interval['high'], spec)}"


def as_float(value: float | None) -> float:
    """NaN for None, which is how JSON keeps NaN."""
    return math.nan if value is None else value


def _shortened(value: Any) -> str:
    """A setting as text: JSON unless it is text already, cut after `LONGEST_VALUE` characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


_TEMPLATES = Environment(
    loader=PackageLoader("hybridstitch.html"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(figure=figure, between=between, percent=percent, shortened=_shortened)
