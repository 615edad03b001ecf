"""Parses the contenders that `--recipes` of a bench names, without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.recipe.names import name_problem

SOLVER_NAMES = ("euler", "even", "heun", "dpm++", "unipc")
BY_SPEED = "speed="
FORMS = "RECIPE[@STEPS][/SOLVER], RECIPE~SPEED, speed=NUMBER or cache-dit:KEY=VALUE,…"
_SPEC = re.compile(r"(?P<recipe>[^~@/]+)(~(?P<speed>[^/]*)|@(?P<steps>[^/]*))?(/(?P<solver>.*))?")

CACHE_DIT = "cache-dit:"


class CacheSettings(TypedDict):
    """Settings of cache-dit's DBCache.

    Attributes:
        threshold: Relative change of the first blocks' residual, 0 to 1, below which the other blocks are skipped. 0
            never skips. More is faster and less faithful.
        Fn: Blocks at the start that always run, at least 1. More is slower.
        Bn: Blocks at the end that always run. More is slower.
        warmup: Steps at the start that skip nothing. More is slower and more faithful.
        continuous: Most steps in a row that skip blocks; -1 for no limit. Fewer is slower and more faithful.
        calibrator: How skipped residuals are predicted; `none` reuses the last ones.
        order: Order of calibrator `taylorseer`.
    """

    threshold: float
    Fn: int
    Bn: int
    warmup: int
    continuous: int
    calibrator: str
    order: int


_DEFAULTS = CacheSettings(threshold=0.08, Fn=1, Bn=0, warmup=8, continuous=-1, calibrator="none", order=1)
"""cache-dit's own, but for Fn: its 8 blocks are all of a small model."""
_CALIBRATORS = ("none", "taylorseer", "dmd", "foca")


@dataclass(frozen=True)
class Spec:
    """One of the contenders in `--recipes`.

    Attributes:
        text: The text as given.
        recipe: Name of a recipe, or `speed=NUMBER`; `large` for `cache-dit:`.
        steps: Steps of the schedule, after `@`.
        speed: Speed-up by FLOPs that the recipe is adjusted to, after `~`.
        solver: Solver, after the slash.
    """

    text: str
    recipe: str
    steps: int | None
    speed: float | None
    solver: str

    @property
    def dial(self) -> float | None:
        """The number of `speed=NUMBER`, None for the name of a recipe."""
        return float(self.recipe.removeprefix(BY_SPEED)) if self.recipe.startswith(BY_SPEED) else None


def read_spec(text: str, known: Sequence[str]) -> Spec:
    """Parse one of `FORMS`.

    Args:
        text: The text.
        known: Names of the recipes.

    Raises:
        InvalidInput: with every problem of the text.
    """
    if text.startswith(CACHE_DIT):
        read_cache_dit(text)
        return Spec(text, "large", None, None, "euler")
    parts = _SPEC.fullmatch(text)
    if not parts:
        raise InvalidInput([Problem("recipes", FORMS, text)])
    name, solver = parts["recipe"], parts["solver"] or "euler"
    problems = []
    if name.startswith(BY_SPEED):
        if not _is_speed(name.removeprefix(BY_SPEED)):
            problems.append(Problem("recipes", "after speed= a number of at least 1", text))
    elif wrong := name_problem("recipes", name, known):
        problems.append(Problem("recipes", f"{wrong.expected}; or speed=NUMBER", text))
    if parts["steps"] is not None and not re.fullmatch(r"[1-9]\d{0,3}", parts["steps"]):
        problems.append(Problem("recipes", "after @ a number of steps", text))
    if parts["speed"] is not None and not _is_speed(parts["speed"]):
        problems.append(Problem("recipes", "after ~ a number of at least 1", text))
    if solver not in SOLVER_NAMES:
        problems.append(Problem("recipes", f"after the slash, one of: {', '.join(SOLVER_NAMES)}", text))
    elif solver not in ("euler", "even") and name not in ("large", "small"):
        problems.append(Problem("recipes", "large or small with another solver", text))
    if problems:
        raise InvalidInput(problems)
    steps = None if parts["steps"] is None else int(parts["steps"])
    speed = None if parts["speed"] is None else float(parts["speed"])
    return Spec(text, name, steps, speed, solver)


def split_specs(text: str) -> list[str]:
    """Split the value of `--recipes` at commas. Settings after the first of a `cache-dit:` stay with it."""
    found: list[str] = []
    for part in text.split(","):
        is_setting = "=" in part and not part.startswith((BY_SPEED, CACHE_DIT))
        if is_setting and found and found[-1].startswith(CACHE_DIT):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def members(names: Sequence[str], family: str) -> list[str]:
    """Return the contenders of a family: those whose names start with its name."""
    return [name for name in names if name.startswith(family)]


def read_cache_dit(text: str) -> CacheSettings:
    """Parse `cache-dit:KEY=VALUE,…`. Keys that are missing have the defaults.

    Raises:
        InvalidInput: with every wrong key and value.
    """
    read: dict[str, tuple[str, Callable[[str], object]]] = {
        "threshold": ("a number from 0 to 1", lambda value: _within(float(value), 0, 1)),
        "Fn": ("a whole number from 1 to 999", lambda value: _within(int(value), 1, 999)),
        "Bn": ("a whole number from 0 to 999", lambda value: _within(int(value), 0, 999)),
        "warmup": ("a whole number from 0 to 999", lambda value: _within(int(value), 0, 999)),
        "continuous": ("a whole number from -1 to 999", lambda value: _within(int(value), -1, 999)),
        "calibrator": (f"one of: {', '.join(_CALIBRATORS)}", lambda value: _CALIBRATORS[_CALIBRATORS.index(value)]),
        "order": ("a whole number from 1 to 4", lambda value: _within(int(value), 1, 4)),
    }
    settings: dict[str, object] = {}
    problems = []
    for part in filter(None, text.removeprefix(CACHE_DIT).split(",")):
        key, equals, value = part.partition("=")
        if key not in read or not equals:
            problems.append(Problem("recipes", f"after {CACHE_DIT} KEY=VALUE with KEY {one_of(read, key)}", part))
        elif key in settings:
            problems.append(Problem("recipes", f"{key} once in {CACHE_DIT}", text))
        else:
            expected, convert = read[key]
            try:
                settings[key] = convert(value)
            except ValueError:
                problems.append(Problem("recipes", f"{CACHE_DIT}{key}={expected}", value))
    if problems:
        raise InvalidInput(problems)
    return cast(CacheSettings, {**_DEFAULTS, **settings})


def _within(value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise ValueError
    return value


def _is_speed(text: str) -> bool:
    try:
        return 1 <= float(text) < math.inf
    except ValueError:
        return False
