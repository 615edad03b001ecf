"""From the trials of a search to the recipe file of a pair."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from hybridstitch.fills import Fitted
from hybridstitch.plans import ExplicitShares
from hybridstitch.recipe.catalogue import COST_DIGITS
from hybridstitch.recipe.recipe import Recipe

FITTED, STITCHED = "fitted steps", "fitted steps and regions"
"""Origins of what a search finds. Recipes that take part as they are have their name."""
PLUS_SPEEDS = 1.83, 4.0
"""Speed-ups of `hybridstitch-plus`, from the paper's to the fastest that a pair has without tuning."""


@dataclass(frozen=True)
class Trial:
    """A recipe with its measurements at one guidance scale. The weights of fill `fitted` were fitted at that scale.

    Attributes:
        recipe: The recipe.
        guidance_scale: The scale.
        cost: FLOPs relative to the large model at all steps.
        error: Error of the finished latents in dB, the mean over the prompts; see `Trajectories.error`.
        psnr_db: Mean PSNR in dB to the large model's pictures.
        origin: The method in words.
    """

    recipe: Recipe
    guidance_scale: float
    cost: float
    error: float
    psnr_db: float
    origin: str = FITTED

    @property
    def speed(self) -> float:
        """Speed-up by FLOPs over the large model."""
        return 1 / self.cost

    @property
    def stitched(self) -> bool:
        """Whether regions of a picture differ in the steps at which the large model rendered them."""
        return self.recipe.plan.masked

    def __str__(self) -> str:
        plan = self.recipe.plan
        shares = plan.shares if isinstance(plan, ExplicitShares) else ()
        dense = [str(step) for step, share in enumerate(shares) if share == 1]
        return f"{self.origin}, large model at steps {' '.join(dense)}" if dense else self.origin

    @property
    def schedule(self) -> str:
        """What is the same at every guidance scale, as JSON."""
        described = self.recipe.to_dict()
        if isinstance(self.recipe.fill, Fitted):
            described["fill"] = self.recipe.fill.small
        return json.dumps(described)


def front(found: Sequence[Trial]) -> list[Trial]:
    """Return the trials that no cheaper one of their guidance scale and kind, stitched or not, surpasses."""
    kept: list[Trial] = []
    best: dict[tuple[float, bool], float] = {}
    for trial in sorted(found, key=lambda each: (each.guidance_scale, each.cost, -each.psnr_db)):
        kind = trial.guidance_scale, trial.stitched
        if trial.psnr_db > best.get(kind, float("-inf")):
            kept.append(trial)
            best[kind] = trial.psnr_db
    return kept


def plus(found: Sequence[Trial]) -> Recipe | None:
    """Return the stitched recipe that gains most over fitted steps of equal cost; see `gain`.

    The mean over the guidance scales counts, of the recipes within `PLUS_SPEEDS` that were measured at the most scales.
    None if there is no such recipe.
    """
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in candidates(found):
        groups[trial.schedule].append(trial)
    best = max(
        groups.values(), key=lambda trials: (len(trials), fmean(gain(each, found) for each in trials)), default=None
    )
    return None if best is None else joined(best)


def candidates(found: Sequence[Trial]) -> list[Trial]:
    """Return the trials of recipes that may become `hybridstitch-plus`."""
    slowest, fastest = PLUS_SPEEDS
    return [trial for trial in found if trial.stitched and slowest <= trial.speed <= fastest]


def gain(trial: Trial, found: Sequence[Trial]) -> float:
    """Return the PSNR in dB that a trial has above recipes without regions at equal cost and guidance scale.

    Between two of these the PSNR is interpolated over the logarithm of the speed. Outside of them the nearest one
    counts.
    """
    others = [each for each in found if each.guidance_scale == trial.guidance_scale and not each.stitched]
    steps = sorted((log(each.speed), each.psnr_db) for each in front(others))
    if not steps:
        return 0.0
    speeds, decibels = zip(*steps, strict=True)
    return trial.psnr_db - float(np.interp(log(trial.speed), speeds, decibels))


def points(found: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return the recipes of the speed dial, as JSON: those with a trial in the front, each with all its scales.

    Stitched ones that the search made are not among them. What they gain over fitted steps on the calibration prompts
    did not last on others (docs/benchmarks.md).
    """
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in sorted(found, key=lambda each: each.guidance_scale):
        groups[trial.schedule].append(trial)
    lasting = [trial for trial in front(found) if trial.origin != STITCHED]
    kept = [groups[schedule] for schedule in dict.fromkeys(trial.schedule for trial in lasting)]
    return [
        {
            "recipe": joined(trials).to_dict(),
            "origin": trials[0].origin,
            "costs": {f"{trial.guidance_scale:g}": round(trial.cost, COST_DIGITS) for trial in trials},
            "psnr_db": {f"{trial.guidance_scale:g}": round(trial.psnr_db, 2) for trial in trials},
        }
        for trials in sorted(kept, key=lambda trials: -trials[0].cost)
    ]


def joined(trials: Sequence[Trial]) -> Recipe:
    """Return the recipe of trials of one schedule, with the weights of each guidance scale."""
    trials = sorted(trials, key=lambda each: each.guidance_scale)
    recipe, fills = trials[0].recipe, [each.recipe.fill for each in trials]
    fitted = [fill for fill in fills if isinstance(fill, Fitted)]
    if not fitted:
        return recipe
    scales, weights = (sum((getattr(fill, name) for fill in fitted), ()) for name in ("guidance", "weights"))
    return replace(recipe, fill=Fitted(scales, weights, fitted[0].small))


def write(found: Sequence[Trial], pair: str, steps: int, named: dict[str, Recipe], path: Path) -> None:
    """Write the recipe file that `pack` includes: `points` for the speed dial, and `named` recipes.

    Args:
        found: Result of the search.
        pair: Fingerprint of the pair.
        steps: Steps of the schedule.
        named: The named recipes.
        path: The file.
    """
    described = {name: recipe.to_dict() for name, recipe in named.items()}
    content = {"pair": pair, "steps": steps, "named": described, "points": points(found)}
    path.write_text(json.dumps(content, indent=1) + "\n")
