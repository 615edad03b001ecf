"""Types of command-line options. A wrong value is kept, so that one message names all wrong options."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hybridstitch.errors import Problem
from hybridstitch.model.lora_files import name_problems, scale_problems

Reader = Callable[[str], Any]
"""Returns the value of an option, or `Unreadable`."""


@dataclass(frozen=True)
class Unreadable:
    """Stands for a wrong value until all options are checked together."""

    expected: str
    got: Any


def unreadable(options: argparse.Namespace) -> list[Problem]:
    """One problem for each wrong value."""
    return [
        Problem(name, each.expected, each.got)
        for name, value in vars(options).items()
        for each in _parts(value)
        if isinstance(each, Unreadable)
    ]


def readable(value: Any) -> Any:
    """The value of an option; None for a wrong one. Of several values, the right ones."""
    if isinstance(value, list):
        return [each for each in value if not isinstance(each, Unreadable)]
    return None if isinstance(value, Unreadable) else value


def whole(low: float = -math.inf, high: int | None = None) -> Reader:
    """A whole number from `low` to `high`, both included."""

    def read(text: str) -> int | Unreadable:
        try:
            value = int(text)
        except ValueError:
            return Unreadable(f"a whole number{_range(low, high)}", text)
        return value if _within(value, low, high) else Unreadable(f"a whole number{_range(low, high)}", value)

    return read


def number(low: float = -math.inf, high: float | None = None) -> Reader:
    """A finite number from `low` to `high`, both included."""

    def read(text: str) -> float | Unreadable:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        fits = math.isfinite(value) and _within(value, low, high)
        return value if fits else Unreadable(f"a number{_range(low, high)}", text)

    return read


def one_of(*names: str) -> Reader:
    """One of these names."""
    return lambda text: text if text in names else Unreadable(f"one of: {', '.join(names)}", text)


def several(kind: Callable[[str], float], low: float = -math.inf, high: float = math.inf) -> Reader:
    """Different numbers from `low` to `high`, separated by commas. kind: `int` or `float`."""
    words = "whole numbers" if kind is int else "numbers"
    limits = "" if low == -math.inf else f", each{_range(low, None if high == math.inf else high)}"

    def read(text: str) -> list[float] | Unreadable:
        try:
            values = [kind(each) for each in text.split(",")]
        except ValueError:
            values = [math.nan]
        fits = all(math.isfinite(value) and low <= value <= high for value in values)
        is_fine = fits and len(set(values)) == len(values)
        return values if is_fine else Unreadable(f"different {words}, separated by commas{limits}", text)

    return read


def corners(text: str) -> list[int] | Unreadable:
    """A region as `X0,Y0,X1,Y1`."""
    try:
        values = [int(each) for each in text.split(",")]
    except ValueError:
        values = []
    left, top, right, bottom = values if len(values) == 4 else (0, 0, 0, 0)
    is_fine = 0 <= left < right and 0 <= top < bottom
    return values if is_fine else Unreadable("X0,Y0,X1,Y1 in pixels with 0 <= X0 < X1 and 0 <= Y0 < Y1", text)


def name_and_scale(text: str) -> tuple[str, float] | Unreadable:
    """The name of an adapter, perhaps with `=SCALE` behind it."""
    name, _, scale = text.partition("=")
    try:
        pair = (name, float(scale or 1))
    except ValueError:
        pair = ("", math.nan)
    problems = name_problems("lora", pair[0]) + scale_problems("lora", pair[1])
    return Unreadable("NAME=SCALE, " + "; ".join(each.expected for each in problems), text) if problems else pair


def name_or_object(text: str) -> Any:
    """The name of a recipe, or a JSON object that describes one."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = "too many brackets or digits"
        if isinstance(error, json.JSONDecodeError):
            where = f"{error.msg} at character {error.pos + 1}"
        return Unreadable(f"a recipe's name or a JSON object; this is not JSON ({where})", text)
    return value if isinstance(value, dict) else Unreadable("a recipe's name or a JSON object", text)


def _parts(value: Any) -> Iterator[Any]:
    yield from value if isinstance(value, list) else [value]


def _within(value: float, low: float, high: float | None) -> bool:
    return low <= value and (high is None or value <= high)


def _range(low: float, high: float | None) -> str:
    # Not `:g`, which shortens large whole numbers.
    if low == -math.inf:
        return ""
    return f" of at least {low}" if high is None else f" within {low}..{high}"
