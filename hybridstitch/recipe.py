"""Recipes: a plan, a mask and a fill under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hybridstitch import fills, masks, plans
from hybridstitch.errors import Problem, raise_if
from hybridstitch.fills import Fill
from hybridstitch.masks import MaskStrategy
from hybridstitch.plans import Plan
from hybridstitch.schema import plain
from hybridstitch.strategy import Strategy

if TYPE_CHECKING:
    from hybridstitch.catalogue import Catalogue

FEWEST_STEPS = 4
"""A call with at most this many steps takes all of them, whatever the recipe's share of the steps."""
AXES: dict[str, type[Strategy]] = {"plan": Plan, "mask": MaskStrategy, "fill": Fill}


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
        raise_if(problems + step_share_problems(self.step_share, "recipe.step_share"))

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
    def from_dict(cls, value: Mapping[str, Any], catalogue: Catalogue | None = None) -> Recipe:
        """The recipe that `value` describes, see `Catalogue.resolve`."""
        if catalogue is None:
            from hybridstitch.catalogue import Catalogue

            catalogue = Catalogue.load()
        return catalogue.resolve(dict(value))


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


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe that `hybridstitch tune` found worth its cost on a pair.

    costs: for every guidance scale that it was tried at, FLOPs of the transformers, where the large model's are 1;
        plans that look at the picture differ there.
    psnr_db: for the same scales, mean fidelity to the large model's own pictures on the prompts that it was tuned on.
    origin: whose idea it is, the name of a recipe or of a method.
    """

    recipe: Recipe
    costs: Mapping[float, float]
    psnr_db: Mapping[float, float]
    origin: str

    def cost(self, guidance_scale: float) -> float:
        """At the guidance scale nearest to this one that was tried."""
        return self.costs[self._nearest(guidance_scale)]

    def fidelity(self, guidance_scale: float) -> float:
        """What it reached there, in dB."""
        return self.psnr_db[self._nearest(guidance_scale)]

    def _nearest(self, guidance_scale: float) -> float:
        return min(self.costs, key=lambda tried: abs(tried - guidance_scale))
