"""Recipes: a plan, a mask and a fill under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hybridstitch import fills, masks, plans
from hybridstitch.base.schema import plain
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.fills import Fill
from hybridstitch.masks import MaskStrategy
from hybridstitch.plans import Plan
from hybridstitch.recipe.names import AXES, UNNAMED
from hybridstitch.recipe.registry import Registry, build_strategy, load_registry

FEWEST_STEPS = 4
"""A call with at most this many steps takes all of them, whatever the recipe's share of the steps."""


@dataclass(frozen=True)
class Recipe:
    """When, where and what: a method of stitching two models. Raises InvalidInput for parameters out of range.

    plan: the share of the image tokens that the large model renders at each step.
    mask: which tokens those are, at steps with a share between 0 and 1.
    fill: who predicts the others.
    step_share: steps that it takes, as a share of those that a call asks for, 0.01 to 1. Less is faster, and coarser.
    """

    plan: Plan
    mask: MaskStrategy = field(default_factory=masks.VelocityChange)
    fill: Fill = field(default_factory=fills.Small)
    name: str = "custom"
    step_share: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_share", plain(self.step_share))
        problems = [problem for axis in AXES for problem in getattr(self, axis).problems(f"recipe.{axis}")]
        raise_problems(problems + step_share_problems(self.step_share, "recipe.step_share"))

    def schedule(self, asked: int) -> int | list[float]:
        """The steps of a call with `asked` steps: their number, or the noise levels of fewer steps.

        A share of the steps leaves at least `FEWEST_STEPS`, or all if the call has fewer.
        """
        taken = max(round(self.step_share * asked), min(asked, FEWEST_STEPS))
        return asked if taken == asked else even_sigmas(taken)

    def dense_steps(self, share: float) -> int:
        """How many dense steps have to come before one with this share, below 1."""
        return max(self.fill.dense_steps, self.mask.dense_steps if share > 0 else 0)

    def to_dict(self) -> dict[str, Any]:
        """The name, and every axis with its type and all its parameters: `Recipe.from_dict` reads it back."""
        axes = {axis: getattr(self, axis).to_dict() for axis in AXES}
        return {"name": self.name, **axes, "step_share": self.step_share}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], registry: Registry | None = None) -> Recipe:
        """The recipe that `value` describes, see `resolve`; with the built-in and installed strategies by default."""
        return resolve(dict(value), registry or load_registry(), recipes())


def even_sigmas(steps: int) -> list[float]:
    """Noise levels before the shift, evenly from 1 down.

    diffusers' own spacing ends with a step from nearly no noise to none, which is a step wasted where there are few.
    """
    return [1 - index / steps for index in range(steps)]


def step_share_problems(value: Any, field: str) -> list[Problem]:
    """What is wrong with a recipe's share of the steps."""
    share = plain(value)
    fine = type(share) in (int, float) and 0.01 <= share <= 1
    return [] if fine else [Problem(field, "a number between 0.01 and 1", value)]


NAMED = (
    Recipe(plans.AllSteps(), masks.All(), name="large"),
    Recipe(plans.NoSteps(), masks.All(), name="small"),
    Recipe(plans.SmallFirst(), masks.All(), name="t-stitch"),
    Recipe(plans.Staged(large=0.29, hybrid=0.0), name="two-stage"),
    Recipe(plans.AdaptiveSwitch(), masks.All(), name="srdiffusion"),
    Recipe(plans.Routed(), masks.All(), name="track"),
    Recipe(plans.ErrorCounter(), masks.All(), fills.Direction(), name="mdd"),
    Recipe(plans.Periodic(), masks.All(), fills.Last(), name="reuse"),
    Recipe(plans.Periodic(), masks.All(), fills.Extrapolate(), name="extrapolate"),
    Recipe(plans.Periodic(every=8, start=0.15, share=0.25), masks.Spread(), fills.Last(), name="ras"),
    Recipe(plans.Staged(), name="hybridstitch"),
)


def recipes() -> dict[str, Recipe]:
    """The named recipes."""
    return {recipe.name: recipe for recipe in NAMED}


def resolve(value: Any, registry: Registry, named: Mapping[str, Recipe], field: str = "recipe") -> Recipe:
    """The recipe that a request names or describes.

    Args:
        value: a name; or an object `{"name"?, "plan"?, "mask"?, "fill"?, "step_share"?}` that starts from the recipe
            of that name and replaces whole axes, each `{"type": …, parameters}`, or single parameters of an axis if
            it gives no type. Without a name, the plan is required.
        registry: the strategies that it may name.
        named: the recipes that it may name.
        field: where the value stands, for messages.

    Raises:
        InvalidInput: names every wrong field.
    """
    if isinstance(value, Recipe):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise InvalidInput([Problem(field, "a name or an object", value)])
    known = ("name", *AXES, "step_share")
    problems = [Problem(f"{field}.{key}", one_of(known, key), value[key]) for key in value if key not in known]
    base = _base(value, named, field, problems)
    chosen: dict[str, Any] = {}
    for axis in AXES:
        if axis in value:
            try:
                start = None if base is None else getattr(base, axis)
                chosen[axis] = build_strategy(registry, axis, value[axis], f"{field}.{axis}", start)
            except InvalidInput as error:
                problems.extend(error.problems)
    if "step_share" in value:
        chosen["step_share"] = value["step_share"]
        problems.extend(step_share_problems(value["step_share"], f"{field}.step_share"))
    raise_problems(problems)
    if base is None:
        return Recipe(**chosen, name=value.get("name") or "custom")
    return replace(base, **chosen, name=base.name if replace(base, **chosen) == base else "custom")


def _base(value: Mapping[str, Any], named: Mapping[str, Recipe], field: str, problems: list[Problem]) -> Recipe | None:
    """The recipe that a description starts from; adds to `problems`."""
    name = value.get("name")
    if name is None or name in UNNAMED:
        if "plan" not in value:
            problems.append(Problem(f"{field}.plan", "a plan, as no recipe is named", None))
        return None
    if not isinstance(name, str) or name not in named:
        where = f"{field}.name" if len(value) > 1 else field
        problems.append(Problem(where, one_of(named, name), name))
        return None
    return named[name]
