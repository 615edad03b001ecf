"""Searches the recipes of a pair with the highest fidelity at each cost, on calibration prompts.

Successive halving: every round doubles the prompts and keeps the best candidates of each class of cost. Neighbours of
them join the next round. Baselines, the published methods at several settings, take part. The result is the Pareto
front of cost and fidelity. Its fidelity is slightly optimistic, because the same numbers choose the front.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from hybridstitch.base.journal import append_entries, read_entries
from hybridstitch.base.progress import Progress, counted
from hybridstitch.bench.calibration import Calibration, CalibrationPool, Case
from hybridstitch.model.parts import fingerprint
from hybridstitch.pipeline import StepWatcher
from hybridstitch.plans import Routed
from hybridstitch.recipe.recipe import Recipe, recipes
from hybridstitch.tune.candidates import (
    Baseline,
    Candidate,
    baselines,
    even_candidates,
    method_of,
    neighbour,
    random_candidate,
    stitched,
)
from hybridstitch.tune.disagreement import disagreement

SPEEDS = (1.25, 1.5, 1.83, 2.2, 2.5, 3.0, 3.5, 4.0, 5.0)
"""Classes of cost. A candidate belongs to the fastest one that it reaches."""
PLUS_SPEED = 1.83
"""Speed-up that the paper claims. `hybridstitch-plus` is the stitched recipe of highest fidelity at this speed-up."""
KEPT = (2, 1)
"""Candidates kept of each class, kind and guidance scale after the first round, and after every later one."""


@dataclass
class Trial:
    """A candidate or baseline with its measurements.

    Attributes:
        candidate: What is tried.
        recipe: Its recipe for the number of steps of the search.
        measured: Cost and PSNR in dB by guidance scale and index of the prompt.
    """

    candidate: Candidate | Baseline
    recipe: Recipe
    measured: dict[tuple[float, int], Sequence[float]] = field(default_factory=dict)

    @property
    def stitched(self) -> bool:
        """Whether each picture has regions of both models."""
        return stitched(self.recipe)

    @property
    def origin(self) -> str:
        """Name of the method that it is a setting of."""
        return self.candidate.origin if isinstance(self.candidate, Baseline) else method_of(self.recipe)

    def cost(self, guidance_scale: float) -> float:
        """Mean FLOPs of the transformers over the prompts, relative to the large model at all steps."""
        return float(np.mean([cost for (scale, _), (cost, _) in self.measured.items() if scale == guidance_scale]))

    @property
    def costs(self) -> dict[float, float]:
        """Costs by guidance scale. They differ for plans that adapt to the picture."""
        return {scale: self.cost(scale) for scale in sorted({scale for scale, _ in self.measured})}

    def fidelity(self, guidance_scale: float) -> float:
        """Mean PSNR to the large model's pictures in dB."""
        measured = [decibels for (scale, _), (_, decibels) in self.measured.items() if scale == guidance_scale]
        return float(np.mean(measured))

    @property
    def speed(self) -> float:
        """Speed-up by FLOPs over the large model, at the guidance scale where it is smallest."""
        return 1 / max(self.costs.values())

    @property
    def speed_class(self) -> int:
        """Index in `SPEEDS`, -1 if it is slower than all of them."""
        return sum(self.speed >= speed for speed in SPEEDS) - 1


class Tuner:
    """Searches recipes for one pair.

    Args:
        calibration: Generates and measures pictures of calibration prompts. They must not be held-out prompts.
        guidance_scales: Guidance scales at which recipes must be good.
        trials: Journal of all measurements. A search that is continued does not repeat them.
        seed: Seed of the random candidates.
        pool: Processes that measure, None for this process.
        bar: Whether a progress bar is shown.
    """

    def __init__(
        self,
        calibration: Calibration,
        guidance_scales: list[float],
        trials: Path,
        seed: int = 0,
        pool: CalibrationPool | None = None,
        bar: bool = True,
    ):
        self.calibration, self._pool, self.scales = calibration, pool, guidance_scales
        self._bar = bar
        self._rng = random.Random(seed)
        self._trials = trials
        self._known: dict[str, Sequence[float]] = dict(read_entries(trials))
        self.pair = fingerprint(calibration.pipe)
        self._key_prefix = f"{self.pair} {calibration.pipe.large.dtype} {calibration.size} {calibration.steps}"

    def search(
        self,
        first: int = 208,
        rounds: int = 3,
        others: Sequence[Baseline] = (),
        earlier: Sequence[Baseline] = (),
        speed: float = SPEEDS[0],
    ) -> list[Trial]:
        """Run the search and return the Pareto front, see `front`.

        Args:
            first: Recipes of the first round: even candidates, baselines, and random candidates. At least a third are
                random, and half of these are stitched.
            rounds: Number of rounds. Each has twice the prompts of the one before.
            others: Further recipes of the first round.
            earlier: Result of an earlier search. It joins the last round, so that the new search does not lose it.
            speed: Smallest speed-up by FLOPs. Slower recipes are generated once, for their cost, and dropped.
        """
        fixed: list[Candidate | Baseline] = [*even_candidates(), *baselines(self._disagreement())]
        random_count = max(first - len(fixed), first // 3)
        fixed_count = first - random_count
        trials = [self._trial(random_candidate(self._rng, index % 2 == 1)) for index in range(random_count)]
        trials += [self._trial(fixed[index * len(fixed) // fixed_count]) for index in range(fixed_count)]
        trials += [self._trial(baseline) for baseline in others]
        for number in range(rounds):
            prompts = self._prompts(number, rounds)
            named = f"round {number + 1} of {rounds}"
            later = self._picture_bound(len(trials), number, rounds, len(earlier))
            self._try(trials, product(self.scales[:1], range(1)), f"{named}, costs", later)
            trials = [trial for trial in trials if trial.speed >= max(speed, SPEEDS[0])]
            trials += [self._trial(baseline) for baseline in earlier if number == rounds - 1]
            later = self._picture_bound(len(trials), number + 1, rounds, len(earlier))
            self._try(trials, product(self.scales, range(prompts)), named, later)
            if number < rounds - 1:
                trials = self._best(trials, KEPT[min(number, len(KEPT) - 1)])
                candidates = [trial.candidate for trial in trials if isinstance(trial.candidate, Candidate)]
                trials += [self._trial(neighbour(candidate, self._rng)) for candidate in candidates]
        return front([trial for trial in trials if trial.speed >= max(speed, SPEEDS[0])], self.scales)

    def _prompts(self, number: int, rounds: int) -> int:
        """Return the number of prompts of a round."""
        return max(1, len(self.calibration.prompts) >> (rounds - 1 - number))

    def _picture_bound(self, trials: int, number: int, rounds: int, earlier: int) -> int:
        """Return an upper bound of the pictures that the rounds from this one on generate."""
        pictures = 0
        for each in range(number, rounds):
            if each:
                kept = KEPT[min(each - 1, len(KEPT) - 1)]
                trials = 2 * min(trials, 2 * len(SPEEDS) * len(self.scales) * kept)
            trying = trials + (earlier if each == rounds - 1 else 0)
            pictures += trying * len(self.scales) * self._prompts(each, rounds)
        return pictures

    def routed(self) -> Recipe:
        """Return recipe `track` with the disagreement of this pair."""
        return replace(recipes()["track"], plan=Routed(disagreement=self._disagreement()))

    def _trial(self, candidate: Candidate | Baseline) -> Trial:
        return Trial(candidate, candidate.recipe(self.calibration.steps))

    def _disagreement(self) -> tuple[float, ...]:
        prompts = self.calibration.prompts[:8]
        key = f"{self._key_prefix} disagreement {self.scales} {prompts}"
        if key not in self._known:
            cases = product(self.scales, range(len(prompts)))
            runs = [partial(self._run_large, scale, prompt) for scale, prompt in cases]
            what = f"distance of the models on {counted(len(prompts), 'prompt')}"
            with Progress(what, len(runs), bar=self._bar) as progress:
                self._remember(key, disagreement(runs, on_picture=progress.update))
        return tuple(self._known[key])

    def _run_large(self, guidance_scale: float, prompt: int, on_step: StepWatcher) -> object:
        return self.calibration.generate(Case(recipes()["large"], guidance_scale, prompt), on_step)

    def _best(self, trials: list[Trial], count: int) -> list[Trial]:
        """Return the best `count` trials of every kind and class of cost at each guidance scale."""
        kept: list[Trial] = []
        for regions, speed_class, scale in product((False, True), range(len(SPEEDS)), self.scales):
            peers = [each for each in trials if each.stitched == regions and each.speed_class == speed_class]
            best = sorted(peers, key=lambda trial: -trial.fidelity(scale))[:count]
            kept += [each for each in best if each not in kept]
        return kept

    def _try(self, trials: list[Trial], where: Iterable[tuple[float, int]], what: str, later: int) -> None:
        """Measure all trials, unless the journal knows them already.

        Args:
            trials: Trials.
            where: Guidance scales and indices of prompts.
            what: Name of the phase, for the progress.
            later: Upper bound of the pictures after this phase, for the progress.
        """
        cases = {
            (index, scale, prompt): Case(trial.recipe, scale, prompt)
            for (scale, prompt), (index, trial) in product(where, enumerate(trials))
        }
        missing = {key: case for case in cases.values() if (key := self._key(case)) not in self._known}
        scales, prompts = len({scale for _, scale, _ in cases}), len({prompt for _, _, prompt in cases})
        size = f"{counted(len(trials), 'recipe')}, {counted(prompts, 'prompt')}, {counted(scales, 'guidance scale')}"
        with Progress(f"{what}: {size}", len(missing), len(cases) - len(missing), later, self._bar) as progress:
            for number, numbers in self._measure([*missing.values()]):
                self._remember([*missing][number], numbers)
                progress.update()
        for (index, scale, prompt), case in cases.items():
            trials[index].measured[scale, prompt] = self._known[self._key(case)]

    def _measure(self, cases: list[Case]) -> Iterable[tuple[int, Sequence[float]]]:
        if self._pool:
            return self._pool.measure_all(cases)
        return ((number, self.calibration.measure(case)) for number, case in enumerate(cases))

    def _key(self, case: Case) -> str:
        described = json.dumps(case.recipe.to_dict(), sort_keys=True)
        prompt = f"{case.prompt} {self.calibration.prompts[case.prompt]}"
        return f"{self._key_prefix} {case.guidance_scale} {prompt} {described}"

    def _remember(self, key: str, numbers: Sequence[float]) -> None:
        self._known[key] = numbers
        append_entries(self._trials, [key, numbers])


def front(trials: list[Trial], scales: list[float]) -> list[Trial]:
    """Return the Pareto front of cost and fidelity, the most expensive trial first.

    A trial belongs to it if every cheaper trial of its kind, stitched or not, has a lower fidelity at one of the
    guidance scales.
    """
    kept: list[Trial] = []
    for regions, scale in product((False, True), scales):
        best = -np.inf
        for trial in sorted((each for each in trials if each.stitched == regions), key=lambda each: each.cost(scale)):
            if trial.fidelity(scale) > best:
                best = trial.fidelity(scale)
                kept += [trial] if trial not in kept else []
    return sorted(kept, key=lambda trial: -max(trial.costs.values()))


def write(found: list[Trial], tuner: Tuner, path: Path) -> None:
    """Write the recipe file that `pack` includes: `points` for the speed dial, and `named` recipes."""
    points = [
        {
            "recipe": trial.recipe.to_dict(),
            "origin": trial.origin,
            "costs": {f"{scale:g}": round(cost, 4) for scale, cost in trial.costs.items()},
            "psnr_db": {f"{scale:g}": round(trial.fidelity(scale), 2) for scale in tuner.scales},
        }
        for trial in found
    ]
    routed = tuner.routed()
    named = {routed.name: routed.to_dict()}
    plus = [trial for trial in found if trial.stitched and trial.speed_class >= SPEEDS.index(PLUS_SPEED)]
    if plus:
        best = max(plus, key=lambda trial: min(trial.fidelity(scale) for scale in tuner.scales))
        named["hybridstitch-plus"] = best.recipe.to_dict()
    content = {"pair": tuner.pair, "steps": tuner.calibration.steps, "named": named, "points": points}
    path.write_text(json.dumps(content, indent=1) + "\n")
