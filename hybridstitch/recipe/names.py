"""The names of recipes, known without torch, so that commands validate them before they load anything."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import Problem

NAMES = (
    *("large", "small", "t-stitch", "two-stage", "srdiffusion", "track", "mdd", "reuse", "extrapolate", "ras"),
    *("front", "hybridstitch"),
)
"""Those of `hybridstitch.recipe.recipe.recipes`."""
UNTUNED = "untuned"
"""The name of what a speed selects on a pair that was not tuned."""
UNNAMED = ("custom", "tuned", UNTUNED)
"""Names in reports of recipes that have no name; a description may contain one beside a plan."""
AXES = ("plan", "mask", "fill")
RECIPE_FIELDS = ("name", *AXES, "step_share", "text")
"""The fields of a description of a recipe."""
TEXT = ("fresh", "kept")
"""Whether steps with a mask compute the rows of the text, or keep those of the last dense step."""
TUNED_FILE = "recipes.json"
"""The file that `hybridstitch tune` writes into a pair's folder."""


def known_names(tuned: Path | None = None, defined: Path | None = None) -> list[str]:
    """The names of recipes that a command accepts.

    Args:
        tuned: the file of `hybridstitch tune`; it may not exist.
        defined: a JSON file of more recipes by name.
    """
    names = list(NAMES)
    if tuned and tuned.is_file():
        names += _keys(_content(tuned), "named")
    if defined:
        names += _keys({"": _content(defined)}, "")
    return list(dict.fromkeys(names))


def name_problem(field: str, name: Any, known: Iterable[str]) -> Problem | None:
    """What is wrong with the name of a recipe, with the nearest known one."""
    known = list(known)
    if name in known:
        return None
    return Problem(field, one_of(known, name), name)


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # the loader of the file reports the problem


def _keys(content: Any, key: str) -> list[str]:
    found = content.get(key) if isinstance(content, dict) else None
    return list(found) if isinstance(found, dict) else []
