"""A verdict that can be computed after every prompt, and stops the run when it is decided.

Each claim is tested by betting. The null hypothesis, that B is not better than the limit, sets the odds, and a share
of the wealth is staked on every prompt. If the null hypothesis is true, the wealth ever reaches 1 / alpha with a chance
of at most alpha, however often it is looked at (Ville's inequality). Several shares are bet at once, and their mean
wealth counts, so no share has to be tuned (Waudby-Smith and Ramdas, JRSS B 2024, for means of bounded figures).

The claims are about the population of the prompts, which must come in random order:

- faster: more than half of them (ties halved) have a mean log ratio of seconds above that of `min_speedup`; that is,
  their median speed-up is above it. This is not the ratio of medians that `decide` reports, and no outlier can move it.
- each measure: its mean over prompts is above its limit, where a prompt further than `bound` from the limit counts as
  `bound`. For a measure that cannot be further this is the mean itself.

Decided for B: the wealth of every claim has reached 1 / alpha. If only one claim is false, its wealth has done so with
a chance of at most alpha, so all claims together need no correction. Decided against B: the opposite bet of one of the
m claims has reached m / alpha. The family-wise error of the m rejections is at most alpha (union bound). Failures of
B, and of the measures of its pictures, are counted without a bet. Too many of them prevent a decision for B, and decide
against B at the end of the run.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from hybridstitch.compare.verdict.findings import SPEED_WORDS, Failures, interval_dict, picture_word
from hybridstitch.compare.verdict.margins import Margins
from hybridstitch.compare.verdict.samples import Sample, Table
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.measure.intervals import Interval, without_nan
from hybridstitch.measure.statistics import prompt_means

STAKES = np.geomspace(0.05, 0.95, 6)
"""Shares of the wealth: small ones win with small steady gains, large ones decide early where gains are large."""
FASTER = "faster"
HALVINGS = 14
"""Steps in the search for the ends of an interval, to a ten-thousandth of its range."""
MOST_EVIDENCE = 1e12
"""The largest evidence that is reported: it grows without limit, and JSON's numbers do not."""


@dataclass(frozen=True)
class Claim:
    """One claim after the last counted prompt.

    Attributes:
        name: "faster", or the name of a measure.
        shown: True: it is shown to hold. False: shown not to. None: neither.
        interval: The share of prompts on which B is fast enough, or the mean of the measure. It is valid at any time;
            each end errs with a chance of alpha.
        evidence_for, evidence_against: Highest wealth so far, at most 1e12.
        clipped: Number of prompts further than `bound` from the limit.
    """

    name: str
    shown: bool | None
    interval: Interval
    evidence_for: float
    evidence_against: float
    clipped: int

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "name": self.name,
            "shown": self.shown,
            **interval_dict(self.interval),
            "evidence_for": self.evidence_for,
            "evidence_against": self.evidence_against,
            "clipped": self.clipped,
        }


@dataclass(frozen=True)
class Progress:
    """The state of a run.

    Attributes:
        margins: The declared limits.
        passed: True: decided for B. False: decided against B. None: not decided.
        prompts: Number of counted prompts; prompts after the decision are not counted.
        most: Number of prompts of the whole run.
        claims: The state of each claim; empty before the first prompt.
        failures: Failed samples of both sides.
    """

    margins: Margins
    passed: bool | None
    prompts: int
    most: int
    claims: tuple[Claim, ...]
    failures: Failures

    @property
    def finished(self) -> bool:
        """Whether the run may stop: it is decided, or no prompt is left."""
        return self.passed is not None or self.prompts == self.most

    def summary(self) -> str:
        """The answer in a few words, "undecided" without one."""
        if self.passed is None:
            return "undecided"
        shown = {claim.name: claim.shown for claim in self.claims}
        quality, fidelity = (
            [shown[name] for name in part if name in shown] for part in (self.margins.quality, self.margins.fidelity)
        )
        return f"{SPEED_WORDS[shown[FASTER]]}, {picture_word(self.failures.inferior, quality, fidelity)}"

    def sentence(self) -> str:
        """The state in one sentence."""
        count = f"after {self.prompts} of at most {self.most} prompts"
        if self.passed is None:
            return f"{'Undecided' if self.finished else 'Not decided yet,'} {count}."
        if self.passed:
            return f"Decided {count}: B is faster and non-inferior."
        lost = [f'"{each.name}" does not hold' for each in self.claims if each.shown is False]
        return f"Decided {count}: {' and '.join(lost) or 'B fails more often than allowed'}."

    def to_dict(self) -> dict[str, Any]:
        """JSON form with stable keys; null where there is no number."""
        return without_nan(
            {
                "passed": self.passed,
                "finished": self.finished,
                "sentence": self.sentence(),
                "prompts": self.prompts,
                "most": self.most,
                "claims": [claim.to_dict() for claim in self.claims],
            }
        )


def follow(samples: Sequence[Sample], order: Sequence[str | int], seeds: int, margins: Margins) -> Progress:
    """Compute the state of a run.

    It counts the prompts of `order` up to the first that lacks a sample, and none after the decision. So the same
    samples always give the same answer, and further ones never change it.

    Args:
        samples: All samples so far, in any order.
        order: The prompts of the run, in the random order in which they are sent.
        seeds: How many seeds each prompt has.
        margins: What B must show.

    Raises:
        InvalidInput: for samples with values out of range or of another run, and for margins without a limit, or with a
            limit that has no bound.
    """
    of_prompt: dict[str | int, list[Sample]] = {prompt: [] for prompt in order}
    _check(samples, of_prompt, len(order), seeds, margins)
    for sample in sorted(samples, key=lambda each: each.seed):
        of_prompt[sample.prompt].append(sample)
    counted = [of_prompt[prompt] for prompt in takewhile(lambda prompt: len(of_prompt[prompt]) == seeds, order)]
    if not counted:
        return Progress(margins, None, 0, len(order), (), Failures(0, 0, 0, margins.extra_failures))
    failed = np.cumsum([_failures(each, margins) for each in counted], axis=0).tolist()
    too_many = [Failures(a, b, (n + 1) * seeds, margins.extra_failures) for n, (a, b) in enumerate(failed)]
    scores = _scores(Table.of([sample for each in counted for sample in each], margins), margins)
    held, lost = _shown(scores, margins.alpha)
    may_pass = np.array([not each.inferior for each in too_many])
    against, in_favour = np.any(lost, axis=0), np.all(held, axis=0) & may_pass
    answered = np.flatnonzero(against | in_favour)
    end = int(answered[0]) + 1 if len(answered) else len(counted)
    passed = bool(not against[end - 1]) if len(answered) else None
    if end == len(order) and too_many[end - 1].inferior:
        passed = False
    claims = _claims(scores[:, :end], held[:, end - 1], lost[:, end - 1], margins)
    return Progress(margins, passed, end, len(order), claims, too_many[end - 1])


def log_wealth(scores: np.ndarray) -> np.ndarray:
    """Return the log of the wealth after each prompt, from bets that the mean score is above 0.

    If the mean is not above 0, the wealth ever reaches 1 / alpha with a chance of at most alpha.

    Args:
        scores: `(…, prompts)`, -1 to 1; NaN is no bet.

    Returns:
        The log wealth in the shape of `scores`.
    """
    gains = np.log1p(STAKES * np.nan_to_num(scores)[..., None])
    return np.logaddexp.reduce(np.cumsum(gains, axis=-2), axis=-1) - math.log(len(STAKES))


def lower_bound(scores: np.ndarray, alpha: float) -> float:
    """Return a lower bound of the mean of scores `(prompts,)`, -1 to 1; ever wrong with a chance of at most alpha."""
    low, high = -1.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        refuted = log_wealth((scores - middle) / (1 + middle)).max() >= -math.log(alpha)
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _check(
    samples: Sequence[Sample], of_prompt: Collection[str | int], prompts: int, seeds: int, margins: Margins
) -> None:
    problems = [
        Problem(f"{'quality' if name in margins.quality else 'fidelity'}.{name}.bound", "a number above 0", None)
        for name, limit in margins.judged.items()
        if limit.bound is None
    ]
    if not margins.judged:
        problems.append(Problem("margins", "at least one measure with a limit", "none"))
    if len(of_prompt) != prompts or not prompts:
        problems.append(Problem("order", "prompts, each once", f"{len(of_prompt)} different of {prompts}"))
    if seeds < 1:
        problems.append(Problem("seeds", "at least 1", seeds))
    for prompt, count in Counter(sample.prompt for sample in samples).items():
        if prompt not in of_prompt:
            problems.append(Problem("pairs", "prompts of the order", prompt))
        elif count > seeds:
            problems.append(Problem(f"pairs[{prompt!r}]", f"at most {seeds}, one for each seed", count))
    raise_problems(problems)


def _failures(samples: Sequence[Sample], margins: Margins) -> tuple[int, int]:
    """How many A and B failed; a sample that could not be measured by a limit counts as one that B failed."""
    of_b = sum(
        math.isnan(sample.seconds_b) or not margins.judged.keys().isdisjoint(sample.unmeasured) for sample in samples
    )
    return sum(math.isnan(sample.seconds_a) for sample in samples), of_b


def _scores(table: Table, margins: Margins) -> np.ndarray:
    """How far prompts are above the limit of each claim, `(claims, prompts)`: for speed the sign, else in bounds."""
    rows = [np.sign(prompt_means(table.log_ratios) - math.log(margins.min_speedup))]
    for name, limit in margins.judged.items():
        assert limit.bound is not None
        rows.append(limit.scores(prompt_means(table.measures[name])) / limit.bound)
    return np.stack(rows)


def _shown(scores: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """For each claim, and after each prompt: whether it was ever shown to hold, and ever shown not to."""
    held, lost = (np.maximum.accumulate(log_wealth(each), axis=1) for each in _both_sides(scores))
    return held >= -math.log(alpha), lost >= math.log(len(scores) / alpha)


def _both_sides(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores for and against, none outside -1 to 1."""
    clipped = np.clip(scores, -1, 1)
    return clipped, -clipped


def _claims(scores: np.ndarray, held: np.ndarray, lost: np.ndarray, margins: Margins) -> tuple[Claim, ...]:
    """Return the claims after the last of these prompts, with scores converted to shares of prompts or units."""
    units: list[Callable[[float], float]] = [lambda score: (1 + score) / 2]
    units += [limit.at for limit in margins.judged.values()]
    claims = []
    for index, name in enumerate([FASTER, *margins.judged]):
        above, below = _both_sides(scores[index])
        ends = lower_bound(above, margins.alpha), -lower_bound(below, margins.alpha)
        low, high = sorted(units[index](end) for end in ends)
        value = units[index](float(np.nanmean(above))) if not np.isnan(above).all() else math.nan
        gained, opposed = (min(math.exp(min(log_wealth(each).max(), 99)), MOST_EVIDENCE) for each in (above, below))
        shown = False if lost[index] else bool(held[index]) or None
        clipped = int((np.abs(scores[index]) > 1).sum())
        claims.append(Claim(name, shown, Interval(value, low, high), gained, opposed, clipped))
    return tuple(claims)
