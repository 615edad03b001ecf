"""A verdict as fields, as JSON and in plain sentences. Quality and fidelity never share a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybridstitch.base.progress import counted
from hybridstitch.compare.verdict.findings import SPEED_WORDS, Failures, Measured, Speed, interval_dict, picture_word
from hybridstitch.compare.verdict.margins import Margins
from hybridstitch.measure.intervals import Interval, without_nan


@dataclass(frozen=True)
class Verdict:
    """The result of `decide`.

    Attributes:
        margins: The declared limits.
        speed: The speed-up of B.
        quality, fidelity: The result of each measure.
        failures: Failed samples of both sides.
        prompts: Number of prompts.
        answered: Number of samples that both endpoints answered.
        identical: Number of answered samples with the same picture.
    """

    margins: Margins
    speed: Speed
    quality: tuple[Measured, ...]
    fidelity: tuple[Measured, ...]
    failures: Failures
    prompts: int
    answered: int
    identical: int

    @property
    def faster(self) -> bool | None:
        """True: B is shown to be faster than declared. False: it is shown not to be. None: neither."""
        return self.speed.faster

    @property
    def no_difference(self) -> bool:
        """Whether the pictures of all samples are identical."""
        return self.identical == self.failures.samples

    @property
    def non_inferior(self) -> bool | None:
        """True: every measure with a limit is shown to clear it, or there is none and all pictures are identical.

        False: B fails too often, or one measure is shown not to. None: neither.
        """
        if self.failures.inferior:
            return False
        judged = [each.non_inferior for each in (*self.quality, *self.fidelity) if each.judged]
        if not judged:
            return self.no_difference or None
        return False if False in judged else all(judged) or None

    @property
    def passed(self) -> bool:
        """Whether B is shown to be both faster and non-inferior; the exit code depends on it."""
        return self.faster is True and self.non_inferior is True

    def summary(self) -> str:
        """The answer in a few words, such as "faster, non-inferior"."""
        if self.no_difference:
            speed = {True: "faster, ", False: "not faster, ", None: ""}[self.faster]
            return f"{speed}no difference" + (" in the pictures" if speed else "")
        shown = [[each.non_inferior for each in part if each.judged] for part in (self.quality, self.fidelity)]
        return f"{SPEED_WORDS[self.faster]}, {picture_word(self.failures.inferior, *shown)}"

    def sentence(self) -> str:
        """The answer in one sentence with its numbers: speed, and what decides about the pictures."""
        return _sentence(f"{self.summary()}: {self._speed_clause()}, and {self._picture_clause()}")

    def quality_sentence(self) -> str:
        """The findings about the quality of the pictures."""
        return _sentence(_quality_clause(self.quality, self.margins))

    def fidelity_sentence(self) -> str:
        """The findings about how near B's pictures are to A's."""
        return _sentence(_fidelity_clause(self.fidelity, self.margins))

    def failure_sentence(self) -> str:
        """How often the endpoints failed."""
        return _sentence(self._failure_clause())

    def to_dict(self) -> dict[str, Any]:
        """JSON form with stable keys; null where there is no number."""
        return without_nan(
            {
                "passed": self.passed,
                "summary": self.summary(),
                "sentence": self.sentence(),
                "faster": self.faster,
                "non_inferior": self.non_inferior,
                "no_difference": self.no_difference,
                "speedup": {**interval_dict(self.speed.ratio), "p": self.speed.p},
                "quality": [each.to_dict() for each in self.quality],
                "fidelity": [each.to_dict() for each in self.fidelity],
                "failures": {"a": self.failures.a, "b": self.failures.b, "inferior": self.failures.inferior},
                "prompts": self.prompts,
                "pairs": self.failures.samples,
                "answered": self.answered,
                "identical": self.identical,
                "level": self.margins.level,
                "margins": self.margins.to_dict(),
            }
        )

    def _speed_clause(self) -> str:
        ratio, asked = self.speed.ratio, self.margins.min_speedup
        if math.isnan(ratio.value):
            return "no pair was answered by both, so there is no speed to compare"
        clause = f"B is {ratio.value:.2f} times as fast as A ({_range(ratio, '.2f', self.margins)})"
        clause += "" if asked == 1 else f", where more than {asked:g} times was asked"
        return clause if self.faster is not None else f"{clause}, but that is not shown: {self._why_undecided()}"

    def _why_undecided(self) -> str:
        ratio, asked, fewest = self.speed.ratio, self.margins.min_speedup, self.margins.fewest_prompts()
        if self.speed.prompts < fewest:
            return _too_few(self.speed.prompts, fewest)
        if ratio.low <= asked <= ratio.high:
            return f"the interval does not exclude {asked:g}"
        return "Wilcoxon's test of the prompts does not agree with the interval"

    def _picture_clause(self) -> str:
        """The finding of quality or fidelity that counts most against B."""
        if self.failures.inferior:
            return self._failure_clause()
        if self.no_difference:
            return f"all {self.identical} pairs of pictures are identical"
        of_quality, of_fidelity = _gravest(self.quality), _gravest(self.fidelity)
        if of_fidelity and (not of_quality or _gravity(of_fidelity) < _gravity(of_quality)):
            return _fidelity_clause(self.fidelity, self.margins)
        return _quality_clause(self.quality, self.margins)

    def _failure_clause(self) -> str:
        failures = self.failures
        clause = f"B failed {failures.b} and A {failures.a} of {failures.samples} requests"
        if not failures.inferior:
            return clause
        return f"{clause}, where B may fail at most {failures.allowed * 100:g} % of them more often"


def _quality_clause(measured: Sequence[Measured], margins: Margins) -> str:
    gravest = _gravest(measured)
    if gravest is None:
        return "no margin of quality was declared to judge the pictures by"
    words = {
        True: "its pictures are as good within the declared margins",
        False: "its pictures are worse than allowed",
        None: "it is not shown that its pictures are as good",
    }
    if gravest.too_often:
        return _unmeasured_clause(gravest)
    clause = f"{words[gravest.non_inferior]} ({_detail(gravest, margins)})"
    if gravest.non_inferior is None and gravest.prompts_needed and gravest.prompts_needed > gravest.prompts:
        return f"{clause}; if they are, about {gravest.prompts_needed} prompts would show it"
    return clause + _too_few_to_judge(gravest, margins)


def _fidelity_clause(measured: Sequence[Measured], margins: Margins) -> str:
    gravest = _gravest(measured)
    if gravest is None:
        return "no limit was declared for how near its pictures are to A's"
    words = {
        True: "its pictures are as near to A's as asked",
        False: "its pictures are further from A's than allowed",
        None: "it is not shown that its pictures are as near to A's as asked",
    }
    if gravest.too_often:
        return _unmeasured_clause(gravest)
    return f"{words[gravest.non_inferior]} ({_detail(gravest, margins)}){_too_few_to_judge(gravest, margins)}"


def _unmeasured_clause(measured: Measured) -> str:
    count = counted(measured.unmeasured, "pair")
    return f"the measure of {measured.name} failed on {count}, which counts against B"


def _too_few_to_judge(measured: Measured, margins: Margins) -> str:
    fewest = margins.fewest_prompts(len(margins.judged))
    if measured.non_inferior is not None or measured.prompts >= fewest:
        return ""
    return f"; {_too_few(measured.prompts, fewest)}"


def _too_few(prompts: int, fewest: int) -> str:
    if not prompts:
        return f"no prompt has a value, and {fewest} are needed at least"
    return f"{prompts} {'prompt is' if prompts == 1 else 'prompts are'} too few, {fewest} are needed at least"


def _gravity(measured: Measured) -> int:
    return {False: 0, None: 1, True: 2}[measured.non_inferior]


def _gravest(measured: Sequence[Measured]) -> Measured | None:
    """The measure with a limit whose result counts most against B; None if no measure has a limit."""
    judged = [each for each in measured if each.judged]
    return min(judged, key=lambda each: (_gravity(each), -(each.p or 0)), default=None)


def _detail(measured: Measured, margins: Margins) -> str:
    value = measured.interval
    if math.isnan(value.value):
        return f"{measured.name}: no value, {measured.limit.asked()}"
    return f"{measured.name} {value.value:.3g}, {_range(value, '.3g', margins)}; {measured.limit.asked()}"


def _range(interval: Interval, spec: str, margins: Margins) -> str:
    if math.isnan(interval.low):
        return "one prompt, too few for an interval"
    return f"{margins.level * 100:g} % interval {interval.low:{spec}} to {interval.high:{spec}}"


def _sentence(clause: str) -> str:
    return clause[0].upper() + clause[1:] + "."
