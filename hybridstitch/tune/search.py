"""Searches the schedules of a pair with the highest fidelity at each cost, on a few calibration prompts.

Four stages for each guidance scale, each as far as the allowed work goes:

1. The large model generates the prompts once. From its recorded trajectories follow the schedules that promise the
   least error, for every number of dense steps and without a forward (`positions.py`).
2. A trial of each fits the weights of fill `fitted` in a run of the real loop, and measures the finished latents.
   Beside each runs what its speed selects on an untuned pair, so that tuning makes no speed worse. Then come the
   steps of plan `front`, and schedules of other sensitivities.
3. Coordinate descent moves one dense step after another, with weights fitted for every schedule tried.
4. In a search with `stitched`, every second step of these schedules renders only a share of the tokens (`stitched.py`).
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

from hybridstitch import masks
from hybridstitch.base.journal import append_entries, read_entries
from hybridstitch.base.progress import Progress, counted
from hybridstitch.bench.calibration import Size
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.fills import Fitted
from hybridstitch.model.parts import fingerprint
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.plans import ExplicitShares, Front, Routed
from hybridstitch.recipe.recipe import FEWEST_STEPS, Recipe, recipes
from hybridstitch.recipe.untuned import FASTEST, untuned_recipe
from hybridstitch.tune.disagreement import disagreement
from hybridstitch.tune.fit import Fitting
from hybridstitch.tune.points import FITTED, STITCHED, Trial, candidates, gain
from hybridstitch.tune.positions import SENSITIVITIES, Jumps, Schedule, neighbours
from hybridstitch.tune.stitched import DENSE_START, PURE, STITCHINGS, Stitching, stitched_shares
from hybridstitch.tune.trajectories import Run, Trajectories

SPEEDS = (2.5, 3.0, 4.0, 1.83, 1.5, 5.0, 2.0, 3.5, 2.2, 1.25)
"""Speed-ups that get a schedule, the most important first: a search whose work is spent leaves out the last ones."""
PURE_SHARE = 0.75
"""Share of a scale's work for pure fitted steps, in a search that also stitches."""
ACROSS_SHARE = 0.2
"""Share of the work for weights at the other guidance scales, in a search that also stitches."""
STITCHED_SPEED = 2.4
"""Speed-up of the schedule, all its steps dense, whose stitched recipe is tried first. Then come those around it."""


class Tuner:
    """Searches schedules for one pair.

    Args:
        pipe: The pair.
        prompts: Calibration prompts. They must not be held-out prompts.
        steps: Steps of the schedule.
        scales: Guidance scales. Each gets schedules and weights.
        journal: File of all trials. A search that is continued does not repeat them.
        work: Allowed work, in plain pictures.
        size: Width and height in pixels; None for the default of the pair.
        stitched: Whether it also tries stitched recipes, with a quarter of the work, and keeps a fifth of it for
            weights of each scale's schedules at the other scales. Otherwise these get what is left.
        others: Recipes that take part as they are.
        bar: Whether a progress bar is shown.

    Raises:
        InvalidInput: The plan of one of `others` looks at the picture, so that prompts cannot share a tensor.
    """

    def __init__(
        self,
        pipe: HybridStitchPipeline,
        prompts: list[str],
        steps: int,
        scales: Sequence[float],
        journal: Path,
        work: float = 500.0,
        size: Size = (None, None),
        stitched: bool = False,
        others: Sequence[Recipe] = (),
        bar: bool = True,
    ):
        expected = "a plan that decides the same for every picture"
        adaptive = [each for each in others if each.plan.adaptive]
        raise_problems([Problem(f"define.{each.name}.plan", expected, each.plan.type) for each in adaptive])
        self.pipe, self.prompts, self.steps, self.scales = pipe, prompts, steps, [*scales]
        self.pair, self.allowed, self.size = fingerprint(pipe), work, size
        self._journal, self._stitched, self._others, self._bar = journal, stitched, others, bar
        self._prefix = json.dumps([self.pair, steps, size, prompts])
        self._known: dict[str, Any] = dict(read_entries(journal))
        self.work = sum(entry["work"] for key, entry in self._known.items() if key.startswith(self._prefix))
        self._progress: Progress | None = None
        self.disagreement: tuple[float, ...] = ()

    def search(self) -> list[Trial]:
        """Run the search and return the best trials for each number of dense steps and guidance scale."""
        what = f"{counted(len(self.prompts), 'prompt')}, {counted(len(self.scales), 'guidance scale')}, as work of"
        left = max(1, round(self.allowed - self.work))
        found: list[Trial] = []
        with Progress(what, left, round(self.work), bar=self._bar) as self._progress:
            for number, scale in enumerate(self.scales):
                found += self._at(scale, len(self.scales) - number)
            own = [*found]
            for number, scale in enumerate(self.scales):
                found += self._across(scale, len(self.scales) - number, own)
        return sorted(found, key=lambda trial: (trial.guidance_scale, -trial.cost))

    def _across(self, scale: float, scales_left: int, found: Sequence[Trial]) -> list[Trial]:
        """Return trials of the other scales' schedules at a guidance scale, as far as its part of the work goes.

        The stitched schedule of each scale that gains most comes first, then fitted steps, then other stitched ones.
        """
        trajectories, fitted = self._trajectories(scale), []
        limit = self.work + (self.allowed - self.work) / scales_left
        by_scale = [[trial for trial in found if trial.guidance_scale == each] for each in self.scales]
        firsts = [max(own, key=lambda one: gain(one, found)) for own in map(candidates, by_scale) if own]
        in_turn = [trial for several in zip_longest(*by_scale) for trial in several if trial]
        tried = {trial.schedule for trial in found if trial.guidance_scale == scale}
        for trial in [*firsts, *sorted(in_turn, key=lambda one: one.stitched)]:
            plan, fill = trial.recipe.plan, trial.recipe.fill
            if trial.schedule in tried or not (isinstance(plan, ExplicitShares) and isinstance(fill, Fitted)):
                continue
            tried.add(trial.schedule)
            stitching, work = Stitching(trial.recipe.mask, fill.small), trial.cost * len(self.prompts)
            known = self._key(trajectories, plan.shares, stitching, across=True) in self._known
            if known or self.work + work <= limit:
                fitted.append(self.trial(trajectories, plan.shares, stitching, across=True))
        return fitted

    def routed(self) -> Recipe:
        """Return recipe `track` with the disagreement of this pair; `search` measures it."""
        return Recipe(Routed(disagreement=self.disagreement), masks.All(), recipes()["track"].fill, "track")

    def _at(self, scale: float, scales_left: int) -> list[Trial]:
        """Return the best trials at a guidance scale."""
        trajectories = self._trajectories(scale)
        if not self.disagreement:
            self.disagreement = tuple(
                self._remembered(f"{self._prefix} disagreement", lambda: disagreement(trajectories))
            )
        later = (scales_left - 1) * len(self.prompts) + self._stitched * ACROSS_SHARE * self.allowed
        last = self.work + (self.allowed - self.work - later) / scales_left
        limit = self.work + (PURE_SHARE if self._stitched else 1) * (last - self.work)
        jumps = Jumps(trajectories.states, trajectories.velocities, trajectories.sigmas)
        best: dict[int, tuple[Schedule, Trial]] = {}
        found: list[Trial] = []
        for speed in SPEEDS:
            if (dense := budget(self.steps, speed)) and dense not in best:
                self._improve(best, dense, jumps.best(dense, SENSITIVITIES[0]), trajectories, limit)
            found += self._untuned(speed, trajectories, limit)
        for dense in budgets(self.steps):
            front = Front(dense / self.steps).dense_steps(self.steps)
            if len(front) == dense:
                self._improve(best, dense, tuple(front), trajectories, limit)
        for sensitivity in SENSITIVITIES[1:]:
            for dense in budgets(self.steps):
                self._improve(best, dense, jumps.best(dense, sensitivity), trajectories, limit)
        for number, dense in enumerate(best):
            share = self.work + (limit - self.work) / (len(best) - number)
            for schedule in _descent(lambda dense=dense: best[dense][0], self.steps):  # type: ignore[misc]
                if not self._improve(best, dense, schedule, trajectories, share):
                    break
        found += [trial for _, trial in best.values()]
        nearest = sorted(best, key=lambda dense: abs(self.steps / dense - STITCHED_SPEED)) if self._stitched else []
        schedules = [best[dense][0] for dense in nearest if dense > DENSE_START]
        for stitching, schedule in product(STITCHINGS, schedules):
            shares = stitched_shares(schedule, self.steps)
            work = (sum(shares) + stitching.small * self.steps) * len(self.prompts) / self.steps
            if self.work + work <= last or self._key(trajectories, shares, stitching) in self._known:
                found.append(self.trial(trajectories, shares, stitching))
        return found + [self._as_it_is(recipe, trajectories) for recipe in self._others]

    def _untuned(self, speed: float, trajectories: Trajectories, limit: float) -> list[Trial]:
        """Return a trial of what a speed selects on an untuned pair, none if the allowed work does not suffice."""
        if speed > FASTEST:
            return []
        recipe = untuned_recipe(speed, trajectories.guidance_scale)
        work = max(1 / speed, min(1.0, FEWEST_STEPS / self.steps)) * len(self.prompts)
        if self.work + work > limit and self._key_as_it_is(recipe, trajectories) not in self._known:
            return []
        return [self._as_it_is(recipe, trajectories)]

    def _key_as_it_is(self, recipe: Recipe, trajectories: Trajectories) -> str:
        return f"{self._prefix} {json.dumps([trajectories.guidance_scale, recipe.to_dict()])}"

    def _as_it_is(self, recipe: Recipe, trajectories: Trajectories) -> Trial:
        """Measure a recipe without fitting anything."""
        found = self._remembered(
            self._key_as_it_is(recipe, trajectories), lambda: _figures(trajectories, trajectories.run(recipe))
        )
        return Trial(recipe, trajectories.guidance_scale, **found, origin=recipe.name)

    def _improve(
        self,
        best: dict[int, tuple[Schedule, Trial]],
        dense: int,
        schedule: Schedule,
        trajectories: Trajectories,
        limit: float,
    ) -> bool:
        """Try a schedule, keep it if it is the best one, and return whether the allowed work sufficed."""
        shared = next((place for place, step in enumerate(schedule) if place != step), len(schedule))
        work = (len(schedule) - shared) * len(self.prompts) / self.steps
        shares = shares_of(schedule, self.steps)
        if self.work + work > limit and self._key(trajectories, shares) not in self._known:
            return False
        trial = self.trial(trajectories, shares)
        if dense not in best or trial.error < best[dense][1].error:
            best[dense] = schedule, trial
        return True

    def trial(
        self,
        trajectories: Trajectories,
        shares: tuple[float, ...],
        stitching: Stitching = PURE,
        across: bool = False,
    ) -> Trial:
        """Fit the weights of a plan's fill and measure it, unless the journal knows it.

        Args:
            trajectories: Those of the guidance scale.
            shares: Share of the tokens that the large model renders at each step.
            stitching: The mask that selects these tokens, and whether the small model's change takes part.
            across: Whether the schedule is another scale's; see `_key`.
        """
        plan, scale = ExplicitShares(shares), trajectories.guidance_scale
        mask, small, text = stitching.mask, stitching.small, "kept" if plan.masked else "fresh"

        def measure() -> dict[str, Any]:
            fill = Fitting(trajectories.states, trajectories.velocities, trajectories.sigmas, shares, small)
            run = trajectories.run(Recipe(plan, mask, fill, "tuned", text=text))
            weights = [weight for step in fill.weights for weight in step]
            return {"weights": weights, **_figures(trajectories, run)}

        found = self._remembered(self._key(trajectories, shares, stitching, across), measure)
        fill = Fitted((scale,), tuple(found["weights"]), small)
        figures = {name: found[name] for name in ("cost", "error", "psnr_db")}
        origin = STITCHED if plan.masked else FITTED
        return Trial(Recipe(plan, mask, fill, "tuned", text=text), scale, **figures, origin=origin)

    def _key(
        self,
        trajectories: Trajectories,
        shares: tuple[float, ...],
        stitching: Stitching = PURE,
        across: bool = False,
    ) -> str:
        """Return the journal's key of a trial.

        A schedule of another scale has a separate one, unless this scale tried it, too. So a search that is continued
        does not meet it earlier than the first time, and finds the same.
        """
        described = [trajectories.guidance_scale, shares, stitching.mask.to_dict(), stitching.small]
        if ExplicitShares(shares).masked:
            described.append("text kept")  # older journals hold trials that computed it
        key = f"{self._prefix} {json.dumps(described)}"
        return f"{key} across" if across and key not in self._known else key

    def _trajectories(self, scale: float) -> Trajectories:
        own = hashlib.sha256(self._prefix.encode()).hexdigest()[:12]
        kept = self._journal.with_suffix(f".{scale:g}-{own}.safetensors")
        key = f"{self._prefix} {kept.name}"
        for each in self._journal.parent.glob(f"{glob.escape(self._journal.stem)}.{scale:g}-*.safetensors"):
            if each != kept or key not in self._known:
                each.unlink()  # of another pair or other prompts, or of a search that was stopped while it wrote
        before = self.work
        found = Trajectories(self.pipe, self.prompts, self.steps, scale, self.size, kept, self._count)
        self._remembered(key, lambda: "trajectories", before)
        return found

    def _count(self, work: float) -> None:
        before = int(self.work)
        self.work += work
        if self._progress:
            self._progress.update(int(self.work) - before)

    def _remembered(self, key: str, compute: Callable[[], Any], before: float | None = None) -> Any:
        """Return the journal's result under a key; without one, compute it and keep it with the work since `before`."""
        if key not in self._known:
            before = self.work if before is None else before
            result = compute()
            self._known[key] = {"result": result, "work": round(self.work - before, 4)}
            append_entries(self._journal, [key, self._known[key]])
        return self._known[key]["result"]


def _figures(trajectories: Trajectories, run: Run) -> dict[str, float]:
    return {"cost": run.cost, "error": trajectories.error(run), "psnr_db": trajectories.fidelity(run)}


def budgets(steps: int) -> list[int]:
    """Return the numbers of dense steps that reach `SPEEDS`, the most important first."""
    found = dict.fromkeys(budget(steps, speed) for speed in SPEEDS)
    return [dense for dense in found if dense]


def budget(steps: int, speed: float) -> int:
    """Return the most dense steps that reach a speed above 1, 0 if none does."""
    return int(steps / speed + 1e-9)


def shares_of(schedule: Schedule, steps: int) -> tuple[float, ...]:
    """Return the shares of a plan `listed` that is dense at these steps."""
    return tuple(float(step in schedule) for step in range(steps))


def _descent(best: Callable[[], Schedule], steps: int) -> Iterator[Schedule]:
    """Yield schedules to try beside the best one, until none of its neighbours was better."""
    tried: set[Schedule] = set()
    while left := [each for each in neighbours(best(), steps) if each not in tried]:
        tried.add(left[0])
        yield left[0]
