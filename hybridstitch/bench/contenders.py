"""The contenders of a bench: recipes at a number of steps, and the large model with other solvers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
)

from hybridstitch.bench.specs import CACHE_DIT, CacheSettings, read_cache_dit, read_spec
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.plans import AllSteps
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.recipe.recipe import Recipe, even_sigmas

SOLVERS: dict[str, Any] = {
    "euler": FlowMatchEulerDiscreteScheduler,
    "even": FlowMatchEulerDiscreteScheduler,
    "heun": FlowMatchHeunDiscreteScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
"""Solvers of diffusers for flow matching.

`euler` ends with a step from nearly no noise to none, as diffusers' SD3 pipeline does. `even` is Euler with steps of
equal length before the shift, so none is wasted. Recipes other than `large` and `small` run on these two. `dpm++` and
`unipc` get timesteps that are not cut to whole numbers, see `_uncut`.
"""

Match = Callable[[Recipe, float], Recipe]


@dataclass(frozen=True)
class Contender:
    """One way to generate a picture.

    Attributes:
        name: Its spec, as given.
        recipe: What to stitch.
        steps: Steps of the schedule.
        solver: One of `SOLVERS`.
        origin: Of a tuned recipe, see `TunedRecipe`.
        cache_dit: Settings of cache-dit, which then runs the recipe `large` on diffusers' own pipeline.
    """

    name: str
    recipe: Recipe
    steps: int
    solver: str = "euler"
    origin: str | None = None
    cache_dit: CacheSettings | None = None

    @classmethod
    def parse(cls, spec: str, catalogue: Catalogue, steps: int, guidance_scale: float, match: Match) -> Contender:
        """Read one of `specs.FORMS`.

        Examples: `hybridstitch`; `large@10/unipc`; `two-stage~1.83`, the variant of a recipe at 1 / 1.83 of the large
        model's cost; `speed=2.5`, a recipe that the pair was tuned to; `cache-dit:threshold=0.15,Fn=1`.

        Args:
            spec: The text.
            catalogue: The recipes that it may name.
            steps: Where the spec names none.
            guidance_scale: Selects the recipe of a speed.
            match: Finds the variant of a recipe at a speed.

        Raises:
            InvalidInput: The spec makes no sense.
        """
        read = read_spec(spec, [*catalogue.recipes])
        solver = read.solver
        if spec.startswith(CACHE_DIT):
            return cls(spec, catalogue.recipes["large"], steps, cache_dit=read_cache_dit(spec))
        if read.dial is None:
            recipe, origin = catalogue.recipes[read.recipe], None
        else:
            tuned = catalogue.at_speed(read.dial, guidance_scale)
            recipe, origin = tuned.recipe, tuned.origin
        if read.steps:
            steps = read.steps
        elif read.speed:
            recipe, steps = _at_cost(recipe, solver, steps, read.speed, match)
        if solver == "even" and recipe.step_share < 1:
            raise InvalidInput(
                [Problem("recipes", "a recipe that takes all steps: solver even has a schedule of even steps", spec)]
            )
        return cls(spec, recipe, steps, solver, origin)

    @classmethod
    def from_dict(cls, name: str, described: Mapping[str, Any], catalogue: Catalogue) -> Contender:
        """Return the contender that `to_dict` described."""
        recipe = replace(catalogue.resolve(dict(described["recipe"])), name=described["recipe"]["name"])
        cache = described.get("cache_dit")
        return cls(name, recipe, described["steps"], described["solver"], described["origin"], cache)

    @property
    def sigmas(self) -> tuple[float, ...] | None:
        """Noise levels before the shift; None for those of the scheduler."""
        return tuple(even_sigmas(self.steps)) if self.solver == "even" else None

    def to_dict(self) -> dict[str, Any]:
        """Return all that determines its pictures, as JSON."""
        found = {
            "recipe": self.recipe.to_dict(),
            "steps": self.steps,
            "solver": self.solver,
            "origin": self.origin,
        }
        return found | ({"cache_dit": dict(self.cache_dit)} if self.cache_dit else {})


def _at_cost(recipe: Recipe, solver: str, steps: int, speed: float, match: Match) -> tuple[Recipe, int]:
    """Return the variant, and its steps, that costs `speed` times less than the large model at `steps`."""
    if recipe.plan != AllSteps():
        return match(recipe, speed), steps
    affordable = steps / speed / recipe.step_share
    # n steps of Heun's method take 2 n - 1 forwards.
    return recipe, max(1, round((affordable + 1) / 2 if solver == "heun" else affordable))


def with_solver(pipe: HybridStitchPipeline, solver: str) -> HybridStitchPipeline:
    """Return the same models under another solver, with the same shift of the noise levels."""
    parts: dict[str, Any] = pipe.components
    config = parts["scheduler"].config
    if solver in ("dpm++", "unipc"):
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": config.shift}
        scheduler = _uncut(SOLVERS[solver])(num_train_timesteps=config.num_train_timesteps, **flow)
    else:
        scheduler = SOLVERS[solver].from_config(config)
    changed = StableDiffusion3Pipeline(**{**parts, "scheduler": scheduler})
    changed.set_progress_bar_config(disable=True)
    return HybridStitchPipeline(changed, pipe.small, pipe.catalogue)


def _uncut(solver: Any) -> Any:
    """Return the solver with the exact timesteps of its noise levels.

    diffusers' own cuts them to whole numbers, so the model would see a little less noise than there is.
    """

    def set_timesteps(self: Any, *args: Any, **keywords: Any) -> None:
        solver.set_timesteps(self, *args, **keywords)
        self.timesteps = (self.sigmas[:-1] * self.config.num_train_timesteps).to(self.timesteps.device)

    return type(f"Uncut{solver.__name__}", (solver,), {"set_timesteps": set_timesteps})
