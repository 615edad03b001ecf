"""The names of recipes, known without torch: commands check them before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import Problem

NAMES = (
    *("large", "small", "t-stitch", "two-stage", "srdiffusion", "track", "mdd", "reuse", "extrapolate", "ras"),
    "hybridstitch",
)
"""Those of `hybridstitch.recipe.recipe.recipes`."""
UNNAMED = ("custom", "tuned")
"""Names in reports for recipes that are their axes alone; a description may give them beside a plan."""
AXES = ("plan", "mask", "fill")
TUNED_FILE = "recipes.json"
"""What `hybridstitch tune` writes into a pair's folder."""


def known_names(tuned: Path | None = None, defined: Path | None = None) -> list[str]:
    """The recipes that a command can name.

    Args:
        tuned: what `hybridstitch tune` wrote, if there is such a file.
        defined: a JSON file of more recipes by name.
    """
    names = list(NAMES)
    if tuned and tuned.is_file():
        names += _keys(_content(tuned), "named")
    if defined:
        names += _keys({"": _content(defined)}, "")
    return list(dict.fromkeys(names))


def name_problem(field: str, name: Any, known: Iterable[str]) -> Problem | None:
    """What is wrong with a recipe's name, with the nearest known one."""
    known = list(known)
    if name in known:
        return None
    return Problem(field, one_of(known, name), name)


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # whoever reads the file itself says what is wrong with it


def _keys(content: Any, key: str) -> list[str]:
    found = content.get(key) if isinstance(content, dict) else None
    return list(found) if isinstance(found, dict) else []
