"""Recipes that `tune` tries: candidates, which it varies, and baselines, which it does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from hybridstitch import fills, masks
from hybridstitch.fills import Fill
from hybridstitch.masks import MaskStrategy
from hybridstitch.plans import (
    AdaptiveSwitch,
    AllSteps,
    ErrorCounter,
    ExplicitShares,
    Periodic,
    Routed,
    SmallFirst,
    Staged,
)
from hybridstitch.recipe.recipe import Recipe, recipes

STEP_SHARES = (1.0, 1.0, 1.0, 0.8, 0.65, 0.5, 0.4, 0.3)
"""Lengths of a candidate's schedule relative to the usual number of steps. The full length is twice as likely."""
MASKS: tuple[MaskStrategy, ...] = (
    masks.Drift(),
    masks.VelocityChange(),
    masks.X0Change(),
    masks.Disagreement(),
    masks.MinimumAge(masks.Drift(), 1),
    masks.Dilate(masks.Drift()),
    masks.Edges(),
    masks.Spread(),
    masks.Refresh(masks.X0Change()),
    masks.Blend(masks.Drift(), masks.Edges()),
)
HYBRID = 0.25
"""Smallest share of hybrid steps of a stitched recipe, that of the paper's recipe. Fewer of them decide little."""


def stitched(recipe: Recipe) -> bool:
    """Return whether regions of both models meet in a picture, at `HYBRID` of the steps or more."""
    plan, hybrid = recipe.plan, 0.0
    if isinstance(plan, ExplicitShares):
        hybrid = sum(0 < share < 1 for share in plan.shares) / len(plan.shares)
    elif isinstance(plan, Staged):
        hybrid = plan.hybrid
    return hybrid >= HYBRID and not isinstance(recipe.fill, fills.Last | fills.Extrapolate)


def method_of(recipe: Recipe) -> str:
    """Return the name of the published method that a candidate's recipe is a setting of."""
    assert isinstance(recipe.plan, ExplicitShares)
    if all(share == 1 for share in recipe.plan.shares):
        return "large with fewer steps"
    regions = any(0 < share < 1 for share in recipe.plan.shares)
    if isinstance(recipe.fill, fills.Last | fills.Extrapolate):
        return "refresh of tokens, as RAS" if regions else recipe.fill.type.replace("last", "reuse")
    method = "regions of both, as HybridStitch" if regions else "steps of both, as SRDiffusion"
    return f"{method}, fill {recipe.fill.type}"


@dataclass(frozen=True)
class Candidate:
    """One point of the search space: dense steps at chosen positions, and a mask and a fill for the steps between.

    Attributes:
        step_share: Length of the schedule relative to the usual number of steps, 0 to 1.
        dense: Share of these steps that the large model renders whole. More is slower and of higher fidelity.
        start: Share of the dense steps at the beginning of the schedule.
        end: Share of the dense steps at its end.
        warp: Distribution of the other dense steps. 1 is even; a larger value moves them towards the start.
        share: Share of the tokens that the large model renders at the other steps. More is slower, with more fidelity.
        mask: Selects these tokens.
        fill: Renders the other tokens.
    """

    step_share: float
    dense: float
    start: float
    end: float
    warp: float
    share: float
    mask: MaskStrategy
    fill: Fill

    def steps(self, usual: int) -> int:
        """Return the number of its steps, for the usual number."""
        return max(2, round(self.step_share * usual))

    def recipe(self, usual: int) -> Recipe:
        """Return its recipe, for the usual number of steps."""
        steps = self.steps(usual)
        where = dense_indices(steps, self.dense, self.start, self.end, self.warp)
        shares = tuple(1.0 if index in where else self.share for index in range(steps))
        return Recipe(ExplicitShares(shares), self.mask, self.fill, "tuned", round(steps / usual, 4))


def dense_indices(steps: int, dense: float, start: float, end: float, warp: float) -> set[int]:
    """Return the indices of the dense steps, see `Candidate`. The first step is always dense."""
    count = max(1, round(dense * steps))
    first = max(1, round(start * count))
    last = min(round(end * count), count - first)
    between = count - first - last
    gap = steps - first - last
    spread = {first + int(gap * ((index + 1) / (between + 1)) ** warp) for index in range(between)}
    return set(range(first)) | {min(index, steps - 1) for index in spread} | set(range(steps - last, steps))


def random_candidate(rng: random.Random, regions: bool = False) -> Candidate:
    """Return a random candidate. With `regions`, its pictures have regions of both models."""
    fill = _fill(rng, regions)
    share = rng.choice([0.05, 0.1, 0.2, 0.3, 0.5]) if regions or rng.random() < 0.3 else 0.0
    return Candidate(
        rng.choice(STEP_SHARES),
        rng.uniform(0.08, 0.9),
        rng.uniform(0.1, 0.8),
        rng.choice([0.0, 0.1, 0.2]),
        rng.uniform(0.7, 1.6),
        share,
        rng.choice(MASKS),
        fill,
    )


def even_candidates() -> list[Candidate]:
    """Return candidates near the published methods: dense steps at equal distances, with several fills between."""
    between: list[tuple[float, Fill]] = [
        (0.0, fills.Last()),
        (0.0, fills.Extrapolate(1, 0.5)),
        (0.1, fills.Corrected()),
        (0.1, fills.Direction()),
        (0.3, fills.Direction()),
    ]
    return [
        Candidate(step_share, dense, 0.3, 0.1, 1.0, share, masks.Drift(), fill)
        for step_share, dense, (share, fill) in product((0.97, 0.75, 0.5), (0.7, 0.55, 0.4, 0.3), between)
    ]


def _fill(rng: random.Random, small: bool) -> Fill:
    strength = rng.choice([0.25, 0.5, 0.75, 1.0])
    if small or rng.random() < 0.25:
        return rng.choice([fills.Corrected(strength), fills.Corrected(1.0), fills.SmallRest(), fills.Small()])
    return rng.choice([fills.Last(), fills.Extrapolate(1, strength), fills.Extrapolate(2, strength)])


def neighbour(candidate: Candidate, rng: random.Random) -> Candidate:
    """Return a candidate that differs slightly in one or two parameters."""

    def near(value: float, by: float, low: float, high: float) -> float:
        return min(high, max(low, value + rng.uniform(-by, by)))

    changes: dict[str, Callable[[], dict[str, Any]]] = {
        "step_share": lambda: {"step_share": near(candidate.step_share, 0.1, 0.2, 1.0)},
        "dense": lambda: {"dense": near(candidate.dense, 0.08, 0.05, 1.0)},
        "start": lambda: {"start": near(candidate.start, 0.15, 0.0, 1.0)},
        "end": lambda: {"end": near(candidate.end, 0.1, 0.0, 0.5)},
        "warp": lambda: {"warp": near(candidate.warp, 0.2, 0.5, 2.5)},
        "share": lambda: {"share": 0.0 if not candidate.share else near(candidate.share, 0.1, 0.02, 0.9)},
        "mask": lambda: {"mask": rng.choice(MASKS)},
        "fill": lambda: {"fill": _fill(rng, not isinstance(candidate.fill, fills.Last | fills.Extrapolate))},
    }
    for name in rng.sample(list(changes), rng.choice([1, 2])):
        candidate = replace(candidate, **changes[name]())
    return candidate


@dataclass(frozen=True)
class Baseline:
    """A recipe that is measured beside the candidates and never varied, such as a published method.

    Attributes:
        method: The recipe.
        origin: Name of the method that it is a setting of.
    """

    method: Recipe
    origin: str

    def recipe(self, usual: int) -> Recipe:
        """Return the recipe. It is the same for every number of steps."""
        return self.method


def baselines(disagreement: tuple[float, ...]) -> list[Baseline]:
    """Return every published method at several costs. `disagreement` is that of the pair, see plan `routed`."""
    named = recipes()
    found = [Recipe(AllSteps(), masks.All(), name="large", step_share=share) for share in (0.75, 0.55, 0.4, 0.3, 0.2)]
    found += [Recipe(Staged(large, 0.0), name="two-stage") for large in (0.1, 0.2, 0.3, 0.45, 0.6)]
    found += [Recipe(Staged(large, 0.25, 0.3), name="hybridstitch") for large in (0.1, 0.2, 0.4)]
    found += [replace(named["t-stitch"], plan=SmallFirst(small)) for small in (0.3, 0.6, 0.8)]
    found += [replace(named["track"], plan=Routed(large, disagreement)) for large in (0.15, 0.3, 0.5)]
    found += [replace(named["srdiffusion"], plan=AdaptiveSwitch(change)) for change in (1.5, 2.5, 4.0, 6.0)]
    found += [replace(named["mdd"], plan=ErrorCounter(limit)) for limit in (0.001, 0.003, 0.01, 0.03)]
    found += [replace(named[name], plan=Periodic(every)) for name in ("reuse", "extrapolate") for every in (2, 3, 4, 6)]
    found += [replace(named["ras"], plan=Periodic(8, 0.15, 0.04, share)) for share in (0.1, 0.25, 0.5)]
    found += [
        replace(named[name], plan=Periodic(every), step_share=share)
        for name in ("reuse", "extrapolate")
        for every in (2, 3)
        for share in (0.75, 0.5)
    ]
    found += [replace(named["ras"], step_share=share) for share in (0.75, 0.5)]
    return [Baseline(recipe, recipe.name) for recipe in found]
