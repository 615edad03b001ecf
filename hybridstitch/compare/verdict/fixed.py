"""The verdict over a finished run: is B faster, and are its pictures not worse than the margins allow?

Every claim is one-sided with an error of at most alpha. It is shown only if two methods agree: a bootstrap interval and
a test of the figures of each prompt. The interval accounts for skew but is slightly narrow for few prompts.

- Faster: the interval of the ratio of medians, and Wilcoxon's test of log ratios, which a single slow answer hardly
  affects.
- A measure: the interval of its mean, and the sign-flip test. Holm's method adjusts p over all measures with a limit,
  so each of them may be quoted alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hybridstitch.compare.verdict.findings import Failures, Measured, Speed
from hybridstitch.compare.verdict.margins import Fidelity, Margins, Quality
from hybridstitch.compare.verdict.power import power, prompts_needed
from hybridstitch.compare.verdict.samples import Sample, Table
from hybridstitch.compare.verdict.verdict import Verdict
from hybridstitch.measure.intervals import DRAWS
from hybridstitch.measure.statistics import bca, holm, prompt_means, ratio_of_medians, sign_flip, wilcoxon


class Chances(NamedTuple):
    """The p values of a measure.

    Attributes:
        above: One-sided p that the mean is not above its limit.
        above_adjusted: The same, adjusted by Holm.
        below_adjusted: One-sided p that the mean is not below its limit, adjusted by Holm.
    """

    above: float
    above_adjusted: float
    below_adjusted: float


def decide(samples: Sequence[Sample], margins: Margins, draws: int = DRAWS) -> Verdict:
    """Judge all samples of a run.

    A sample where an endpoint failed has no speed-up and no measures, but it counts. B is inferior if the share of
    samples where it failed is higher than A's by more than `margins.extra_failures`. For a measure, a sample that could
    not be measured counts as one that B failed.

    Args:
        samples: All samples of the run, in any order.
        margins: What B must show.
        draws: Resamplings of the bootstrap, and sign flips. More give finer p values and take longer.

    Raises:
        InvalidInput: for no samples, and for samples with values out of range.
    """
    table = Table.of(samples, margins)
    means = {name: prompt_means(values) for name, values in table.measures.items()}
    scores = [limit.scores(means[name]) for name, limit in margins.judged.items()]
    chances = [sign_flip(each, "greater", draws) for each in scores]
    below = holm([sign_flip(-each, "greater", draws) for each in scores])
    tests = dict(zip(margins.judged, map(Chances, chances, holm(chances), below), strict=True))
    failures = Failures(
        int(sum(math.isnan(sample.seconds_a) for sample in samples)),
        int(sum(math.isnan(sample.seconds_b) for sample in samples)),
        len(samples),
        margins.extra_failures,
    )
    measured = {
        name: _with_failures(
            _measured(name, limit, table.measures[name], tests.get(name), margins, draws),
            sum(name in sample.unmeasured for sample in samples),
            failures,
        )
        for name, limit in margins.limits.items()
    }
    return Verdict(
        margins=margins,
        speed=_speed(table, margins, draws),
        quality=tuple(measured[name] for name in margins.quality),
        fidelity=tuple(measured[name] for name in margins.fidelity),
        failures=failures,
        prompts=len(table.prompts),
        answered=sum(sample.answered for sample in samples),
        identical=sum(sample.answered and sample.identical for sample in samples),
    )


def _speed(table: Table, margins: Margins, draws: int) -> Speed:
    """Faster if the interval lies above the declared speed-up, not faster if it lies below."""
    ratio = ratio_of_medians(table.seconds_a, table.seconds_b, margins.level, draws)
    gains = prompt_means(table.log_ratios) - math.log(margins.min_speedup)
    p = wilcoxon(gains, "greater")
    low, high = ratio.low - margins.min_speedup, ratio.high - margins.min_speedup
    faster = _claim(low, high, p, wilcoxon(-gains, "greater"), margins.alpha)
    return Speed(ratio, p, faster, int((~np.isnan(gains)).sum()))


def _measured(
    name: str,
    limit: Quality | Fidelity,
    values: np.ndarray,
    chances: Chances | None,
    margins: Margins,
    draws: int,
) -> Measured:
    """One measure `(prompts, seeds)`; chances: None if it has no limit."""
    means = prompt_means(values)
    interval = bca(means, level=margins.level, draws=draws)
    samples, prompts = int((~np.isnan(values)).sum()), int((~np.isnan(means)).sum())
    if chances is None:
        return Measured(name, limit, interval, samples, prompts)
    low, high = sorted(limit.scores(np.array([interval.low, interval.high])))
    return Measured(
        name,
        limit,
        interval,
        samples,
        prompts,
        chances.above,
        chances.above_adjusted,
        _claim(low, high, chances.above_adjusted, chances.below_adjusted, margins.alpha),
        *_planning(limit, means, margins),
    )


def _with_failures(found: Measured, unmeasured: int, failures: Failures) -> Measured:
    """Return the result of a measure together with the samples on which it failed."""
    too_often = found.judged and unmeasured > 0 and failures.too_often(unmeasured)
    shown = False if too_often else found.non_inferior
    return replace(found, non_inferior=shown, unmeasured=unmeasured, too_often=too_often)


def _claim(low: float, high: float, above: float, below: float, alpha: float) -> bool | None:
    """True: the interval lies above 0 and the test agrees. False: below. None: neither is shown, such as with NaN."""
    if low > 0 and above <= alpha:
        return True
    return False if high < 0 and below <= alpha else None


def _planning(limit: Quality | Fidelity, means: np.ndarray, margins: Margins) -> tuple[float | None, int | None]:
    """Return the power of this run and the prompts to plan for, assuming that B is exactly as good as A.

    Each measure is tested at the strictest step of Holm's method, so with several measures the true power is higher.
    Both are None for fidelity, where no such assumption exists.
    """
    kept = means[~np.isnan(means)]
    if not isinstance(limit, Quality) or limit.margin is None or len(kept) < 2:
        return None, None
    spread, alpha = float(kept.std(ddof=1)), margins.alpha / len(margins.judged)
    needed = prompts_needed(limit.margin, spread, margins.power, alpha)
    return power(limit.margin, spread, len(kept), alpha), needed
