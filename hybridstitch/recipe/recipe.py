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
from hybridstitch.recipe.names import AXES, RECIPE_FIELDS, TEXT, UNNAMED
from hybridstitch.recipe.registry import Registry, build_strategy, load_registry

FEWEST_STEPS = 4
"""The fewest steps that a share of the steps leaves; a call with fewer steps takes all of them."""


@dataclass(frozen=True)
class Recipe:
    """A plan, a mask and a fill: one method of stitching two models.

    Args:
        plan: the share of the image tokens that the large model renders at each step.
        mask: which tokens it renders at steps with a share between 0 and 1.
        fill: predicts the other tokens.
        name: of the recipe in reports.
        step_share: steps taken as a share of those of a call, 0.01 to 1, default 1. Less is faster, and further from
            the picture with all steps.
        text: `fresh` computes the rows of the text in steps with a mask, too; `kept` keeps those of the last dense
            step, which is faster and further from the large model's picture. Default `fresh`.

    Raises:
        InvalidInput: for parameters out of range.
    """

    plan: Plan
    mask: MaskStrategy = field(default_factory=masks.VelocityChange)
    fill: Fill = field(default_factory=fills.Small)
    name: str = "custom"
    step_share: float = 1.0
    text: str = "fresh"

    def __post_init__(self) -> None:
        object.__setattr__(self, "step_share", plain(self.step_share))
        problems = [problem for axis in AXES for problem in getattr(self, axis).problems(f"recipe.{axis}")]
        problems += step_share_problems(self.step_share, "recipe.step_share")
        raise_problems(problems + text_problems(self.text, "recipe.text"))

    def schedule(self, asked: int) -> int | list[float]:
        """The number of steps of a call with `asked` steps, or the noise levels if it takes fewer.

        A share of the steps leaves at least `FEWEST_STEPS`, or all if the call has fewer.
        """
        taken = max(round(self.step_share * asked), min(asked, FEWEST_STEPS))
        return asked if taken == asked else even_sigmas(taken)

    def dense_steps(self, share: float) -> int:
        """The number of dense steps that must precede a step with this share below 1."""
        return max(self.fill.dense_steps, self.mask.dense_steps if share > 0 else 0)

    def to_dict(self) -> dict[str, Any]:
        """The name, and each axis with its type and parameters; `Recipe.from_dict` reads it."""
        axes = {axis: getattr(self, axis).to_dict() for axis in AXES}
        return {"name": self.name, **axes, "step_share": self.step_share, "text": self.text}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], registry: Registry | None = None) -> Recipe:
        """The recipe that `value` describes; see `resolve`.

        Args:
            value: a description.
            registry: strategies that it may name; by default the built-in and installed ones.
        """
        return resolve(dict(value), registry or load_registry(), recipes())


def even_sigmas(steps: int) -> list[float]:
    """Evenly spaced noise levels from 1 down, before the schedule's shift.

    diffusers' own spacing ends with a step from almost no noise to none, which wastes one of few steps.
    """
    return [1 - index / steps for index in range(steps)]


def step_share_problems(value: Any, field: str) -> list[Problem]:
    """What is wrong with a recipe's share of the steps."""
    share = plain(value)
    fine = type(share) in (int, float) and 0.01 <= share <= 1
    return [] if fine else [Problem(field, "a number within 0.01..1", value)]


def text_problems(value: Any, field: str) -> list[Problem]:
    """What is wrong with what a recipe does with the text."""
    return [] if isinstance(value, str) and value in TEXT else [Problem(field, f"one of: {', '.join(TEXT)}", value)]


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
    Recipe(plans.Front(), masks.All(), fills.Extrapolate(), name="front"),
    Recipe(plans.Staged(), name="hybridstitch"),
)


def recipes() -> dict[str, Recipe]:
    """The named recipes."""
    return {recipe.name: recipe for recipe in NAMED}


def resolve(value: Any, registry: Registry, named: Mapping[str, Recipe], field: str = "recipe") -> Recipe:
    """The recipe that a request names or describes.

    Args:
        value: a name, or an object `{"name"?, "plan"?, "mask"?, "fill"?, "step_share"?, "text"?}`. The object starts
            from the recipe of that name. An axis with a type, `{"type": …, parameters}`, replaces the whole axis;
            without a type it replaces single parameters. Without a name the plan is required.
        registry: strategies that it may name.
        named: recipes that it may name.
        field: name of the field in error messages.

    Raises:
        InvalidInput: names every wrong field.
    """
    if isinstance(value, Recipe):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise InvalidInput([Problem(field, "a name or an object", value)])
    problems = [
        Problem(f"{field}.{key}", one_of(RECIPE_FIELDS, key), value[key]) for key in value if key not in RECIPE_FIELDS
    ]
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
    if "text" in value:
        chosen["text"] = value["text"]
        problems.extend(text_problems(value["text"], f"{field}.text"))
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
