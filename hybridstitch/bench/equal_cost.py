"""Recipes at equal cost: adjusts the parameter of a plan that trades speed for quality, until the cost is right."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.plans import AdaptiveSwitch, ErrorCounter, Front, Periodic, Plan, Routed, Sea, SmallFirst, Staged
from hybridstitch.recipe.recipe import Recipe

DIALS: dict[type[Plan], str] = {
    SmallFirst: "small",
    Staged: "large",
    Routed: "large",
    AdaptiveSwitch: "threshold",
    ErrorCounter: "limit",
    Periodic: "every",
    Front: "dense",
    Sea: "threshold",
}
"""The parameter of each plan that is adjusted. For `periodic` with tokens between its dense steps, it is `share`."""
NEAR = 0.1
"""Largest relative error of the cost. It is large because the steps of a period are coarse."""


def matched(recipe: Recipe, speed: float, steps: int, cost_of: Callable[[Recipe], float]) -> Recipe:
    """Return the variant of a recipe whose cost is nearest to 1 / speed.

    Costs change by whole steps: at 28 steps the error is at most 0.03.

    Args:
        recipe: The recipe.
        speed: Speed-up by FLOPs over the large model.
        steps: Steps of the schedule.
        cost_of: Returns the FLOPs of a recipe, relative to the large model. Called about six times.

    Raises:
        InvalidInput: if the plan has no such parameter, or no variant has a cost within `NEAR`.
    """
    known = variants(recipe, steps)
    low, high = 0, len(known) - 1
    rising = cost_of(known[low]) < cost_of(known[high])
    while high - low > 1:
        middle = (low + high) // 2
        if (cost_of(known[middle]) < 1 / speed) == rising:
            low = middle
        else:
            high = middle
    cost, found = min(((cost_of(known[each]), each) for each in (low, high)), key=lambda one: abs(one[0] - 1 / speed))
    if abs(cost * speed - 1) > NEAR:
        expected = f"a speed that the recipe can have; the nearest is {1 / cost:.3g}"
        raise InvalidInput([Problem("recipes", expected, f"{recipe.name}~{speed:g}")])
    return known[found]


def variants(recipe: Recipe, steps: int) -> list[Recipe]:
    """Return the recipe with each value of the parameter, in order. Raises InvalidInput for a plan without one."""
    plan = recipe.plan
    if type(plan) not in DIALS:
        expected = f"a recipe whose plan is one of: {', '.join(each.type for each in DIALS)}"
        raise InvalidInput([Problem("recipes", expected, recipe.name)])
    dial = "share" if isinstance(plan, Periodic) and plan.masked else DIALS[type(plan)]
    values: list[Any] = [index / steps for index in range(steps + 1)]
    if dial == "every":
        values = list(range(1, steps + 1))
    elif dial == "threshold":
        values = np.geomspace(*((0.02, 5) if isinstance(plan, Sea) else (0.1, 30)), 60).tolist()
    elif dial == "limit":
        values = np.geomspace(1e-4, 1, 60).tolist()
    found = []
    for value in values:
        with suppress(InvalidInput):  # values that the plan's other parameters exclude
            found.append(replace(recipe, plan=type(plan).build({**vars(plan), dial: value}, "plan")))
    return found
