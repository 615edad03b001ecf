"""What B must show against A, declared before the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hybridstitch.errors import Problem, raise_problems


@dataclass(frozen=True)
class Quality:
    """A measure of the quality of each picture. Its values are B minus A; above 0, B is better.

    Attributes:
        margin: How much worse B may be in the mean, above 0, in units of the measure. None: reported, not judged.
        bound: For the sequential mode: a prompt further from the margin than this counts as this far. Above 0; None
            excludes the measure from that mode.
    """

    margin: float | None = None
    bound: float | None = None

    @property
    def limit(self) -> float | None:
        """What the mean must be above."""
        return None if self.margin is None else -self.margin

    def scores(self, values: np.ndarray) -> np.ndarray:
        """How far values lie on the good side of the margin."""
        assert self.margin is not None
        return values + self.margin

    def at(self, score: float) -> float:
        """The value at this share of the bound above the margin."""
        assert self.margin is not None
        assert self.bound is not None
        return score * self.bound - self.margin

    def asked(self) -> str:
        """The limit in words."""
        return "" if self.margin is None else f"above -{self.margin:g} was asked"


@dataclass(frozen=True)
class Fidelity:
    """A measure of how near B's picture is to A's.

    Attributes:
        limit: What the mean must be above, or below with `lower_is_nearer`. None: reported, not judged.
        lower_is_nearer: Whether a lower value means a nearer picture, as for distances.
        bound: As for `Quality`.
    """

    limit: float | None = None
    lower_is_nearer: bool = False
    bound: float | None = None

    def scores(self, values: np.ndarray) -> np.ndarray:
        """How far values lie on the good side of the limit."""
        assert self.limit is not None
        return self.limit - values if self.lower_is_nearer else values - self.limit

    def at(self, score: float) -> float:
        """The value at this share of the bound on the good side of the limit."""
        assert self.limit is not None
        assert self.bound is not None
        return self.limit + (-score if self.lower_is_nearer else score) * self.bound

    def asked(self) -> str:
        """The limit in words."""
        return "" if self.limit is None else f"{'below' if self.lower_is_nearer else 'above'} {self.limit:g} was asked"


@dataclass(frozen=True)
class Margins:
    """All limits of the verdict.

    Attributes:
        quality, fidelity: The measures by name: quality of each picture, and nearness to A's picture.
        min_speedup: B must be more than this many times as fast as A; above 0, default 1.
        extra_failures: B is inferior if its share of failed samples exceeds A's by more than this; 0 to 1, default 0.
        alpha: Chance of a wrong claim, above 0 and below 0.5, default 0.05.
        power: Chance to show a true claim that `prompts_needed` plans for, between 0 and 1, default 0.8.
    """

    quality: Mapping[str, Quality] = field(default_factory=dict)
    fidelity: Mapping[str, Fidelity] = field(default_factory=dict)
    min_speedup: float = 1.0
    extra_failures: float = 0.0
    alpha: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        """Raise InvalidInput that names every field out of range."""
        expected = {
            "min_speedup": (0 < self.min_speedup < math.inf, "a number above 0"),
            "extra_failures": (0 <= self.extra_failures <= 1, "a share from 0 to 1"),
            "alpha": (0 < self.alpha < 0.5, "a number between 0 and 0.5"),
            "power": (0 < self.power < 1, "a number between 0 and 1"),
        }
        problems = [Problem(name, what, getattr(self, name)) for name, (good, what) in expected.items() if not good]
        for name, each in self.quality.items():
            problems += _not_above_zero(f"quality.{name}.margin", each.margin)
        for name, limit in self.limits.items():
            problems += _not_above_zero(
                f"{'quality' if name in self.quality else 'fidelity'}.{name}.bound", limit.bound
            )
        both = sorted(set(self.quality) & set(self.fidelity))
        problems += [Problem(f"fidelity.{name}", "a measure that is not one of quality", name) for name in both]
        raise_problems(problems)

    @property
    def limits(self) -> dict[str, Quality | Fidelity]:
        """All measures by name, quality first."""
        return {**self.quality, **self.fidelity}

    @property
    def judged(self) -> dict[str, Quality | Fidelity]:
        """The measures that B must clear."""
        return {name: each for name, each in self.limits.items() if each.limit is not None}

    @property
    def level(self) -> float:
        """The level of two-sided intervals: each end errs with a chance of alpha."""
        return 1 - 2 * self.alpha

    def fewest_prompts(self, claims: int = 1) -> int:
        """The fewest prompts with which a test can show a claim: its p is at least 2 ** -prompts.

        claims: Number of claims that share alpha.
        """
        return math.ceil(math.log2(claims / self.alpha))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def _not_above_zero(name: str, value: float | None) -> list[Problem]:
    return [] if value is None or 0 < value < math.inf else [Problem(name, "a number above 0, or null", value)]
