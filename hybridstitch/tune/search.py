"""`tune`: search the recipes that are worth their cost on a pair, on prompts set aside for it.

Rounds of trying, each with twice the prompts and fewer candidates than the one before: the best of every class of cost
stay, and neighbours of them join. The methods of the field take part. Those that no cheaper one beats in the end are
the result; what they reached is a little optimistic, as they were chosen by it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from hybridstitch.base.progress import Progress, counted
from hybridstitch.bench.calibration import Calibration, CalibrationPool, Case
from hybridstitch.model.fingerprint import fingerprint
from hybridstitch.pipeline import StepWatcher
from hybridstitch.plans import Routed
from hybridstitch.recipe.recipe import Recipe, recipes
from hybridstitch.tune.candidates import Baseline, Candidate, baselines, drawn, even, idea, stitched, varied
from hybridstitch.tune.disagreement import disagreement

Run = Callable[[StepWatcher], object]
SPEEDS = (1.25, 1.5, 1.83, 2.2, 2.5, 3.0, 3.5, 4.0, 5.0)
"""Classes of cost: a candidate belongs to the fastest of these that it reaches."""
PLUS_SPEED = 1.83
"""Recipe `hybridstitch-plus` is the most faithful stitched one that is so many times cheaper, the paper's claim."""
KEPT = (2, 1)
"""Candidates of each class that stay, at each guidance scale, after the first round and after every later one."""


@dataclass
class Trial:
    """A candidate and what it has shown: cost and decibels, for each guidance scale and prompt."""

    candidate: Candidate | Baseline
    recipe: Recipe
    shown: dict[tuple[float, int], Sequence[float]] = field(default_factory=dict)

    @property
    def stitched(self) -> bool:
        """Whether regions of both models meet in a picture."""
        return stitched(self.recipe)

    @property
    def origin(self) -> str:
        """Whose idea it is."""
        return self.candidate.origin if isinstance(self.candidate, Baseline) else idea(self.recipe)

    def cost(self, guidance_scale: float) -> float:
        """FLOPs of the transformers, where the large model at all steps is 1."""
        return float(np.mean([cost for (scale, _), (cost, _) in self.shown.items() if scale == guidance_scale]))

    @property
    def costs(self) -> dict[float, float]:
        """By guidance scale; they differ for plans that look at the picture."""
        return {scale: self.cost(scale) for scale in sorted({scale for scale, _ in self.shown})}

    def fidelity(self, guidance_scale: float) -> float:
        """Mean PSNR to the large model's own pictures."""
        shown = [decibels for (scale, _), (_, decibels) in self.shown.items() if scale == guidance_scale]
        return float(np.mean(shown))

    @property
    def speed(self) -> float:
        """How many times fewer FLOPs it needs than the large model, at the guidance scale where that is least."""
        return 1 / max(self.costs.values())

    @property
    def speed_class(self) -> int:
        """Index into `SPEEDS`, -1 if it is slower than all."""
        return sum(self.speed >= speed for speed in SPEEDS) - 1


class Tuner:
    """Searches on one pair.

    drawing: on calibration prompts, never those that evaluate. drawers: processes that draw for it, None for this one.
    trials: a file of what was drawn so far; a search that was interrupted does not draw it again.
    bar: whether a progress bar may be shown.
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
        self._known: dict[str, Sequence[float]] = {}
        for line in trials.read_text().splitlines() if trials.exists() else []:
            with suppress(ValueError):  # a line that an interruption cut off
                key, numbers = json.loads(line)
                self._known[key] = numbers
        self.pair = fingerprint(calibration.pipe)
        self._same = f"{self.pair} {calibration.pipe.large.dtype} {calibration.size} {calibration.steps}"

    def search(
        self,
        first: int = 208,
        rounds: int = 3,
        others: Sequence[Baseline] = (),
        earlier: Sequence[Baseline] = (),
        speed: float = SPEEDS[0],
    ) -> list[Trial]:
        """All that are worth their cost at one of the guidance scales, the dearest first.

        Args:
            first: recipes of the first round: evenly placed ones, the methods of the field, and random ones, half of
                them stitched. At least a third are random.
            rounds: how often the best are tried again, each time with twice the prompts.
            others: recipes that take part beside them.
            earlier: what an earlier search found. It joins the last round, so that another search does not lose it.
            speed: slower ones are drawn once, to learn their cost, and leave.
        """
        fixed: list[Candidate | Baseline] = [*even(), *baselines(self._disagreement())]
        chance = max(first - len(fixed), first // 3)
        placed = first - chance
        trials = [self._trial(drawn(self._rng, index % 2 == 1)) for index in range(chance)]
        trials += [self._trial(fixed[index * len(fixed) // placed]) for index in range(placed)]
        trials += [self._trial(baseline) for baseline in others]
        for number in range(rounds):
            prompts = self._prompts(number, rounds)
            named = f"round {number + 1} of {rounds}"
            later = self._most(len(trials), number, rounds, len(earlier))
            self._try(trials, product(self.scales[:1], range(1)), f"{named}, costs", later)
            trials = [trial for trial in trials if trial.speed >= max(speed, SPEEDS[0])]
            trials += [self._trial(baseline) for baseline in earlier if number == rounds - 1]
            later = self._most(len(trials), number + 1, rounds, len(earlier))
            self._try(trials, product(self.scales, range(prompts)), named, later)
            if number < rounds - 1:
                trials = self._best(trials, KEPT[min(number, len(KEPT) - 1)])
                candidates = [trial.candidate for trial in trials if isinstance(trial.candidate, Candidate)]
                trials += [self._trial(varied(candidate, self._rng)) for candidate in candidates]
        return front([trial for trial in trials if trial.speed >= max(speed, SPEEDS[0])], self.scales)

    def _prompts(self, number: int, rounds: int) -> int:
        """How many prompts a round takes."""
        return max(1, len(self.calibration.prompts) >> (rounds - 1 - number))

    def _most(self, trials: int, number: int, rounds: int, earlier: int) -> int:
        """How many pictures the rounds from this one on may need at most."""
        pictures = 0
        for each in range(number, rounds):
            if each:
                kept = KEPT[min(each - 1, len(KEPT) - 1)]
                trials = 2 * min(trials, 2 * len(SPEEDS) * len(self.scales) * kept)
            trying = trials + (earlier if each == rounds - 1 else 0)
            pictures += trying * len(self.scales) * self._prompts(each, rounds)
        return pictures

    def routed(self) -> Recipe:
        """Recipe `track` with this pair's own disagreement."""
        return replace(recipes()["track"], plan=Routed(disagreement=self._disagreement()))

    def _trial(self, candidate: Candidate | Baseline) -> Trial:
        return Trial(candidate, candidate.recipe(self.calibration.steps))

    def _disagreement(self) -> tuple[float, ...]:
        prompts = self.calibration.prompts[:8]
        key = f"{self._same} disagreement {self.scales} {prompts}"
        if key not in self._known:
            cases = product(self.scales, range(len(prompts)))
            runs = [partial(self._run_large, scale, prompt) for scale, prompt in cases]
            what = f"distance of the models on {counted(len(prompts), 'prompt')}"
            with Progress(what, len(runs), bar=self._bar) as progress:
                self._remember(key, disagreement(_with_progress(runs, progress)))
        return tuple(self._known[key])

    def _run_large(self, guidance_scale: float, prompt: int, on_step: StepWatcher) -> object:
        return self.calibration.generate(Case(recipes()["large"], guidance_scale, prompt), on_step)

    def _best(self, trials: list[Trial], count: int) -> list[Trial]:
        """The best few of every kind and class of cost at each guidance scale: what is good differs between them."""
        kept: list[Trial] = []
        for regions, speed_class, scale in product((False, True), range(len(SPEEDS)), self.scales):
            peers = [each for each in trials if each.stitched == regions and each.speed_class == speed_class]
            best = sorted(peers, key=lambda trial: -trial.fidelity(scale))[:count]
            kept += [each for each in best if each not in kept]
        return kept

    def _try(self, trials: list[Trial], where: Iterable[tuple[float, int]], what: str, later: int) -> None:
        """Draw every trial at these guidance scales and prompts, unless that is known.

        later: how many pictures may come after these.
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
            trials[index].shown[scale, prompt] = self._known[self._key(case)]

    def _measure(self, cases: list[Case]) -> Iterable[tuple[int, Sequence[float]]]:
        if self._pool:
            return self._pool.measure_all(cases)
        return ((number, self.calibration.measure(case)) for number, case in enumerate(cases))

    def _key(self, case: Case) -> str:
        described = json.dumps(case.recipe.to_dict(), sort_keys=True)
        prompt = f"{case.prompt} {self.calibration.prompts[case.prompt]}"
        return f"{self._same} {case.guidance_scale} {prompt} {described}"

    def _remember(self, key: str, numbers: Sequence[float]) -> None:
        self._known[key] = numbers
        with self._trials.open("a") as lines:
            lines.write("\n" + json.dumps([key, numbers]))


def _with_progress(runs: Iterable[Run], progress: Progress) -> Iterator[Run]:
    """Yield the runs. Taking the next one counts the one before it as done."""
    for number, run in enumerate(runs):
        progress.update(int(number > 0))
        yield run
    progress.update()


def front(trials: list[Trial], scales: list[float]) -> list[Trial]:
    """Those that no cheaper trial of their kind beats at one of the guidance scales, the dearest first."""
    kept: list[Trial] = []
    for regions, scale in product((False, True), scales):
        best = -np.inf
        for trial in sorted((each for each in trials if each.stitched == regions), key=lambda each: each.cost(scale)):
            if trial.fidelity(scale) > best:
                best = trial.fidelity(scale)
                kept += [trial] if trial not in kept else []
    return sorted(kept, key=lambda trial: -max(trial.costs.values()))


def write(found: list[Trial], tuner: Tuner, path: Path) -> None:
    """The recipe file that `pack` takes along: for the speed dial `points`, and `named` recipes."""
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
