"""The measured values of a comparison: one sample for each prompt and seed, and all of them as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hybridstitch.compare.verdict.margins import Margins
from hybridstitch.errors import Problem, raise_problems


@dataclass(frozen=True)
class Sample:
    """The measured answers of both endpoints to one prompt and seed.

    Attributes:
        prompt: Number or name of the prompt.
        seed: Seed of both pictures.
        seconds_a, seconds_b: Time to the answer, above 0; NaN if the endpoint failed.
        measures: Values by name, finite or NaN. Quality is B minus A; above 0, B is better. Fidelity is how near B's
            picture is to A's. Empty if an endpoint failed.
        identical: Whether both pictures have the same pixels.
        unmeasured: Measures that failed on this sample. They count against B as a failed answer does.
    """

    prompt: str | int
    seed: int
    seconds_a: float
    seconds_b: float
    measures: Mapping[str, float] = field(default_factory=dict)
    identical: bool = False
    unmeasured: tuple[str, ...] = ()

    @property
    def answered(self) -> bool:
        """Whether both endpoints answered."""
        return not (math.isnan(self.seconds_a) or math.isnan(self.seconds_b))


@dataclass(frozen=True)
class Table:
    """Samples as arrays `(prompts, seeds)`, with NaN where there is no value.

    Attributes:
        prompts: The prompts in the order of their first sample.
        seconds_a, seconds_b: Times; NaN if the endpoint failed.
        measures: One array for every measure that the margins name.
    """

    prompts: tuple[str | int, ...]
    seconds_a: np.ndarray
    seconds_b: np.ndarray
    measures: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, samples: Sequence[Sample], margins: Margins) -> Table:
        """Return the table of these samples. Raises InvalidInput that names every wrong sample."""
        _check(samples, margins)
        prompts = tuple(dict.fromkeys(sample.prompt for sample in samples))
        row = {prompt: index for index, prompt in enumerate(prompts)}
        column = {seed: index for index, seed in enumerate(dict.fromkeys(sample.seed for sample in samples))}
        cells = [row[sample.prompt] for sample in samples], [column[sample.seed] for sample in samples]

        def grid(figures: list[float]) -> np.ndarray:
            values = np.full((len(row), len(column)), np.nan)
            values[cells] = figures
            return values

        return cls(
            prompts,
            grid([sample.seconds_a for sample in samples]),
            grid([sample.seconds_b for sample in samples]),
            {name: grid([sample.measures.get(name, math.nan) for sample in samples]) for name in margins.limits},
        )

    @property
    def log_ratios(self) -> np.ndarray:
        """log(seconds of A / seconds of B) where both answered."""
        return np.log(self.seconds_a / self.seconds_b)


def _check(samples: Sequence[Sample], margins: Margins) -> None:
    problems = [] if samples else [Problem("pairs", "at least one", "none")]
    seen: set[tuple[str | int, int]] = set()
    for sample in samples:
        where = f"pairs[{sample.prompt!r}, {sample.seed}]"
        if (sample.prompt, sample.seed) in seen:
            problems.append(Problem(where, "one pair for each prompt and seed", "another"))
        seen.add((sample.prompt, sample.seed))
        for name in ("seconds_a", "seconds_b"):
            seconds = getattr(sample, name)
            if not (math.isnan(seconds) or 0 < seconds < math.inf):
                problems.append(Problem(f"{where}.{name}", "seconds above 0, or NaN for a failure", seconds))
        for name, value in sample.measures.items():
            if name not in margins.limits:
                problems.append(Problem(f"{where}.measures", "measures that the margins name", name))
            elif math.isinf(value):
                problems.append(Problem(f"{where}.measures.{name}", "a finite number or NaN", value))
            elif not (sample.answered or math.isnan(value)):
                problems.append(Problem(f"{where}.measures.{name}", "nothing where an endpoint failed", value))
    raise_problems(problems)
