"""The findings of a comparison: speed, each measure, and failures."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from hybridstitch.compare.verdict.margins import Fidelity, Quality
from hybridstitch.measure.intervals import Interval


@dataclass(frozen=True)
class Speed:
    """The speed-up of B.

    Attributes:
        ratio: Median seconds of A divided by those of B, with its interval.
        p: One-sided p that B is not faster than declared.
        faster: True: B is shown to be faster than declared. False: shown not to be. None: neither.
        prompts: Number of prompts that both sides answered.
    """

    ratio: Interval
    p: float
    faster: bool | None
    prompts: int


@dataclass(frozen=True)
class Measured:
    """The result of one measure.

    Attributes:
        name: Name of the measure.
        limit: What its mean must clear, as declared.
        interval: Its mean over prompts, with the interval.
        samples, prompts: Number of samples and prompts that have a value.
        p: One-sided p that its mean does not clear the limit; None without a limit.
        p_adjusted: `p` adjusted by Holm over all measures with a limit.
        non_inferior: True: shown to clear the limit. False: shown not to. None: neither, or no limit.
        power: Chance that a run of this size shows that B is as good, if it is; None for fidelity, without a limit,
            and for fewer than two prompts.
        prompts_needed: Prompts for the power that the margins require; None where `power` is None, and above a
            million.
        unmeasured: Number of samples on which the measure failed.
        too_often: Whether these and B's failed answers together are more than allowed. Then `non_inferior` is False.
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
    """The number of samples on which A and B failed.

    Attributes:
        a, b: Failed samples of each side.
        samples: All samples.
        allowed: How much higher the share of B's failures may be than A's, 0 to 1.
    """

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
    """Return the finding about B's pictures in one or a few words.

    "inferior" is for quality and for failures: pictures that are only far from A's may be as good.

    Args:
        failing: Whether B fails more often than allowed.
        quality, fidelity: `Measured.non_inferior` of each measure with a limit.
    """
    if failing or False in quality:
        return "inferior"
    if False in fidelity:
        return "not close enough to A"
    shown = [*quality, *fidelity]
    return "non-inferior" if shown and all(shown) else "pictures undecided"
