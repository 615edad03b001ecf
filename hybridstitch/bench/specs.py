"""Parses the contenders that `--recipes` of a bench names, without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.recipe.names import name_problem

SOLVER_NAMES = ("euler", "even", "heun", "dpm++", "unipc")
BY_SPEED = "speed="
_SPEC = re.compile(r"(?P<recipe>[^~@/]+)(~(?P<speed>[^/]*)|@(?P<steps>[^/]*))?(/(?P<solver>.*))?")


@dataclass(frozen=True)
class Spec:
    """One of the contenders in `--recipes`.

    Attributes:
        text: The text as given.
        recipe: Name of a recipe, or `speed=NUMBER`.
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
    """Parse `RECIPE[@STEPS][/SOLVER]`, `RECIPE~SPEED[/SOLVER]` or `speed=NUMBER`.

    Args:
        text: The text.
        known: Names of the recipes.

    Raises:
        InvalidInput: with every problem of the text.
    """
    parts = _SPEC.fullmatch(text)
    if not parts:
        raise InvalidInput([Problem("recipes", "RECIPE[@STEPS][/SOLVER], RECIPE~SPEED or speed=NUMBER", text)])
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


def _is_speed(text: str) -> bool:
    try:
        return 1 <= float(text) < math.inf
    except ValueError:
        return False
