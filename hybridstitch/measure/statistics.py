"""Intervals and tests for figures that come by prompt.

Pictures of one prompt resemble each other, so prompts are the units that vary by chance. Intervals resample whole
prompts, and tests take one figure a prompt. Prompts are the first axis of an array; NaN marks a missing figure.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from scipy import stats

from hybridstitch.measure.intervals import DRAWS, LEVEL, Interval

EXACT_FLIPS = 12
"""The sign-flip test tries every sign up to this number of differences."""
BLOCK = 2**22
"""Resampled values held in memory at once."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps samples `(samples, prompts, …)` to one figure each, `(samples,)`."""
Alternative = Literal["two-sided", "greater"]


def prompt_means(values: np.ndarray) -> np.ndarray:
    """The mean of each prompt: `(prompts, seeds)` to `(prompts,)`, NaN for prompts without any figure."""
    present = ~np.isnan(values)
    counts = present.sum(axis=1)
    sums = np.where(present, values, 0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def mean(samples: np.ndarray) -> np.ndarray:
    """The mean over all figures of each sample."""
    return np.nanmean(samples, axis=tuple(range(1, samples.ndim)))


def bca(
    values: np.ndarray, statistic: Statistic = mean, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """A statistic with its bias-corrected and accelerated bootstrap interval (Efron 1987) over whole prompts.

    Args:
        values: `(prompts, …)`. Prompts with nothing but NaN are left out.
        statistic: maps samples of prompts to figures; by default the mean.
        level: confidence level of the interval, 0 to 1.
        draws: number of resamples.
        seed: of the resamples.

    Returns:
        The statistic and its bounds. The bounds are NaN for one prompt, and all three are NaN for none. Where BCa is
        undefined, as for equal figures, the bounds are the percentiles of the resamples.
    """
    kept = values[~np.isnan(values).all(axis=tuple(range(1, values.ndim)))]
    if not len(kept):
        return Interval(math.nan, math.nan, math.nan)
    value = float(statistic(kept[None])[0])
    if len(kept) == 1:
        return Interval(value, math.nan, math.nan)

    def of_rows(rows: np.ndarray, axis: int) -> np.ndarray:
        return statistic(kept[rows.reshape(-1, rows.shape[axis])]).reshape(rows.shape[:-1])

    with warnings.catch_warnings(action="ignore"):  # of bounds that are NaN
        found = stats.bootstrap(
            (np.arange(len(kept)),),
            of_rows,
            n_resamples=draws,
            batch=max(1, BLOCK // kept.size),
            confidence_level=level,
            rng=np.random.default_rng(seed),
        )
    low, high = found.confidence_interval
    if math.isnan(low) or math.isnan(high):
        low, high = np.quantile(found.bootstrap_distribution, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def ratio_of_medians(
    first: np.ndarray, second: np.ndarray, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Median of `first` over median of `second`, both `(prompts, seeds)`; only pairs with both figures count.

    The other arguments and the bounds are those of `bca`.
    """
    both = np.where(np.isnan(first) | np.isnan(second), np.nan, np.stack([first, second]))

    def ratio(samples: np.ndarray) -> np.ndarray:
        flat = samples.reshape(len(samples), -1, 2)
        return _median(flat[..., 0]) / _median(flat[..., 1])

    return bca(np.moveaxis(both, 0, -1), ratio, level, draws, seed)


def _median(rows: np.ndarray) -> np.ndarray:
    """The median of each row without its NaN, 80 times as fast as `numpy.nanmedian`: sorting puts NaN last."""
    ordered = np.sort(rows, axis=-1)
    counts = (~np.isnan(rows)).sum(axis=-1, keepdims=True)
    middle = np.concatenate([(counts - 1) // 2, counts // 2], axis=-1)
    return np.take_along_axis(ordered, middle, axis=-1).mean(axis=-1)


def wilcoxon(differences: np.ndarray, alternative: Alternative = "two-sided") -> float:
    """p of Wilcoxon's signed-rank test that differences `(prompts,)` are symmetric around 0.

    Zeros and NaN are left out; 1 if nothing is left. The p value is exact up to 50 differences, with ties up to 13.
    Beyond, it is that of the normal approximation with continuity correction.

    Args:
        alternative: "greater" tests against differences above 0, one-sided.
    """
    values = differences[~np.isnan(differences) & (differences != 0)]
    if not len(values):
        return 1.0
    return min(1.0, float(stats.wilcoxon(values, alternative=alternative, correction=True).pvalue))


def sign_flip(
    differences: np.ndarray, alternative: Alternative = "two-sided", draws: int = DRAWS, seed: int = 0
) -> float:
    """p of the sign-flip test that the mean of differences `(prompts,)` is 0.

    NaN are left out; 1 if nothing is left. The p value is exact up to 12 differences. Beyond, it comes from random
    flips and is at least `1 / (draws + 1)`. One matrix product makes it ten times as fast as `scipy.permutation_test`.

    Args:
        alternative: "greater" tests against a mean above 0, one-sided.
        draws: number of random flips.
        seed: of the random flips.
    """
    values = differences[~np.isnan(differences)]
    count = len(values)
    exact = count <= EXACT_FLIPS
    if exact:
        kept = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        kept = np.random.default_rng(seed).integers(0, 2, size=(draws, count), dtype=np.int8)
    total = values.sum()
    sums = 2 * (kept @ values) - total
    if alternative == "two-sided":
        sums, total = np.abs(sums), abs(total)
    # The same sum in another order of adding must count as equal.
    as_much = int((sums >= total - 1e-12 * np.abs(values).sum()).sum())
    return as_much / len(sums) if exact else (as_much + 1) / (draws + 1)


def holm(chances: Sequence[float]) -> list[float]:
    """p values adjusted by Holm's method, so that rejecting those <= alpha has a family-wise error <= alpha."""
    order = np.argsort(chances)
    steps = np.asarray(chances, float)[order] * (len(chances) - np.arange(len(chances)))
    adjusted = np.empty(len(chances))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted.tolist()


def wilson(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """A share with Wilson's interval, which stays within 0..1. No trials: NaN."""
    if not trials:
        return Interval(math.nan, math.nan, math.nan)
    found = stats.binomtest(successes, trials).proportion_ci(level, "wilson")
    return Interval(successes / trials, float(found.low), float(found.high))


def binomial(successes: int, trials: int) -> float:
    """Exact two-sided p that successes and failures are equally likely, such as preferences without ties."""
    return float(stats.binomtest(successes, trials).pvalue) if trials else 1.0
