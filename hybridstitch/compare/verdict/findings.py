"""What a comparison found of speed, of each measure and of failures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from hybridstitch.compare.verdict.margins import Fidelity, Quality
from hybridstitch.measure.intervals import Interval


@dataclass(frozen=True)
class Speed:
    """ratio: median seconds of A over those of B, with interval; p: one-sided; faster: None where neither is shown.

    prompts: how many both sides answered.
    """

    ratio: Interval
    p: float
    faster: bool | None
    prompts: int


@dataclass(frozen=True)
class Measured:
    """One measure.

    interval: its mean over prompts. samples, prompts: how many have a value.
    p, p_adjusted: one-sided, that its mean clears the limit only by chance; alone and among all. None without limit.
    non_inferior: True shown to clear the limit, False shown not to, None neither (or no limit).
    unmeasured: samples on which its measure failed. too_often: whether B's failed answers and these together are more
        than may fail; then `non_inferior` is False.
    power, prompts_needed: the chance of this run to show that B is as good, if it is, and the prompts for the power
        that the margins require; None for fidelity, for fewer than two prompts, without limit, and for more than a
        million prompts.
    """

    name: str
    limit: Quality | Fidelity
    interval: Interval
    samples: int
    prompts: int
    p: float | None = None
    p_adjusted: float | None = None
    non_inferior: bool | None = None
    power: float | None = None
    prompts_needed: int | None = None
    unmeasured: int = 0
    too_often: bool = False

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
            "pairs": self.samples,
            "prompts": self.prompts,
            "p": self.p,
            "p_adjusted": self.p_adjusted,
            "non_inferior": self.non_inferior,
            "power": self.power,
            "prompts_needed": self.prompts_needed,
            "unmeasured": self.unmeasured,
        }


@dataclass(frozen=True)
class Failures:
    """In how many of the samples A and B failed, and by how much the share of B may be higher."""

    a: int
    b: int
    samples: int
    allowed: float

    @property
    def inferior(self) -> bool:
        """Whether B fails more often than allowed."""
        return self.too_often()

    def too_often(self, unmeasured: int = 0) -> bool:
        """Whether B fails more often than allowed, with `unmeasured` more failures."""
        return self.samples > 0 and (self.b + unmeasured - self.a) / self.samples > self.allowed


def interval_dict(interval: Interval) -> dict[str, float]:
    """JSON form of an interval."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}


SPEED_WORDS = {True: "faster", False: "not faster", None: "speed undecided"}


def picture_word(failing: bool, quality: Collection[bool | None], fidelity: Collection[bool | None]) -> str:
    """What was shown of B's pictures, from what was shown of each measure with a limit.

    "inferior" is for quality and for failures: pictures that are only far from A's may be as good.
    """
    if failing or False in quality:
        return "inferior"
    if False in fidelity:
        return "not close enough to A"
    shown = [*quality, *fidelity]
    return "non-inferior" if shown and all(shown) else "pictures undecided"
