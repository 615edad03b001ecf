"""What a comparison measured: pairs of answers to the same prompt and seed, and as arrays by prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hybridstitch.compare.verdict.margins import Margins
from hybridstitch.errors import Problem, raise_problems


@dataclass(frozen=True)
class Pair:
    """What both endpoints made of one prompt and seed.

    seconds_a, seconds_b: time to the answer, above 0; NaN where the endpoint failed.
    metrics: by name, finite or NaN. Quality: B minus A, turned so that above 0 is better. Fidelity: how near B's
        picture is to A's. Empty where an endpoint failed.
    identical: whether both pictures are the same in every pixel.
    unmeasured: metrics whose measure failed on this pair, which counts against B as a failed answer does.
    """

    prompt: str | int
    seed: int
    seconds_a: float
    seconds_b: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    identical: bool = False
    unmeasured: tuple[str, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether both endpoints answered."""
        return not (math.isnan(self.seconds_a) or math.isnan(self.seconds_b))


@dataclass(frozen=True)
class Table:
    """Pairs as arrays `(prompts, seeds)`, prompts and seeds in the order of their first pair; NaN where there is none.

    seconds_a, seconds_b: NaN where the endpoint failed. metrics: one array for every metric that the margins name.
    """

    prompts: tuple[str | int, ...]
    seconds_a: np.ndarray
    seconds_b: np.ndarray
    metrics: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, pairs: Sequence[Pair], margins: Margins) -> Table:
        """The table of these pairs. Raises InvalidInput, naming every pair that cannot be."""
        _check(pairs, margins)
        prompts = tuple(dict.fromkeys(pair.prompt for pair in pairs))
        row = {prompt: index for index, prompt in enumerate(prompts)}
        column = {seed: index for index, seed in enumerate(dict.fromkeys(pair.seed for pair in pairs))}
        cells = [row[pair.prompt] for pair in pairs], [column[pair.seed] for pair in pairs]

        def grid(figures: list[float]) -> np.ndarray:
            values = np.full((len(row), len(column)), np.nan)
            values[cells] = figures
            return values

        return cls(
            prompts,
            grid([pair.seconds_a for pair in pairs]),
            grid([pair.seconds_b for pair in pairs]),
            {name: grid([pair.metrics.get(name, math.nan) for pair in pairs]) for name in margins.limits},
        )

    @property
    def log_ratios(self) -> np.ndarray:
        """log(seconds of A / seconds of B) where both answered."""
        return np.log(self.seconds_a / self.seconds_b)


def _check(pairs: Sequence[Pair], margins: Margins) -> None:
    problems = [] if pairs else [Problem("pairs", "at least one", "none")]
    seen: set[tuple[str | int, int]] = set()
    for pair in pairs:
        where = f"pairs[{pair.prompt!r}, {pair.seed}]"
        if (pair.prompt, pair.seed) in seen:
            problems.append(Problem(where, "one pair for each prompt and seed", "another"))
        seen.add((pair.prompt, pair.seed))
        for name in ("seconds_a", "seconds_b"):
            seconds = getattr(pair, name)
            if not (math.isnan(seconds) or 0 < seconds < math.inf):
                problems.append(Problem(f"{where}.{name}", "seconds above 0, or NaN for a failure", seconds))
        for name, value in pair.metrics.items():
            if name not in margins.limits:
                problems.append(Problem(f"{where}.metrics", "metrics that the margins name", name))
            elif math.isinf(value):
                problems.append(Problem(f"{where}.metrics.{name}", "a finite number or NaN", value))
            elif not (pair.answered or math.isnan(value)):
                problems.append(Problem(f"{where}.metrics.{name}", "nothing where an endpoint failed", value))
    raise_problems(problems)
