"""What a comparison found of speed, of each metric and of failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybridstitch.bench.intervals import Interval
from hybridstitch.compare.margins import Fidelity, Quality


@dataclass(frozen=True)
class Speed:
    """ratio: median seconds of A over those of B, with interval; p: one-sided; faster: None where neither is shown."""

    ratio: Interval
    p: float
    faster: bool | None


@dataclass(frozen=True)
class Measured:
    """One metric.

    interval: its mean over prompts. pairs, prompts: how many have a value.
    p, p_adjusted: one-sided, that its mean clears the limit only by chance; alone and among all. None without limit.
    non_inferior: True shown to clear the limit, False shown not to, None neither (or no limit).
    power, prompts_needed: the chance of this run to show that B is as good, if it is, and the prompts for the power
        that the margins ask for; None for fidelity, for fewer than two prompts, without limit, and for more than a
        million prompts.
    """

    name: str
    limit: Quality | Fidelity
    interval: Interval
    pairs: int
    prompts: int
    p: float | None = None
    p_adjusted: float | None = None
    non_inferior: bool | None = None
    power: float | None = None
    prompts_needed: int | None = None

    @property
    def judged(self) -> bool:
        """Whether a limit was declared."""
        return self.limit.limit is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.name,
            **interval_dict(self.interval),
            "limit": self.limit.limit,
            "lower_is_nearer": isinstance(self.limit, Fidelity) and self.limit.lower_is_nearer,
            "pairs": self.pairs,
            "prompts": self.prompts,
            "p": self.p,
            "p_adjusted": self.p_adjusted,
            "non_inferior": self.non_inferior,
            "power": self.power,
            "prompts_needed": self.prompts_needed,
        }


@dataclass(frozen=True)
class Failures:
    """In how many of the pairs A and B failed, and by how much the share of B may be higher."""

    a: int
    b: int
    pairs: int
    allowed: float

    @property
    def inferior(self) -> bool:
        """Whether B fails more often than allowed."""
        return self.pairs > 0 and (self.b - self.a) / self.pairs > self.allowed


def interval_dict(interval: Interval) -> dict[str, float]:
    """JSON form of an interval."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}
