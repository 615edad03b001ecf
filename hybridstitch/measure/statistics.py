"""Intervals and tests for figures that come by prompt.

Pictures of one prompt are alike, so it is prompts that vary by chance: intervals draw whole prompts, tests take one
figure a prompt. Prompts stand on the first axis; NaN is where there is no figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np

from hybridstitch.measure.intervals import DRAWS, LEVEL, Interval

NORMAL = NormalDist()
EXACT_RANKS = 50
"""Up to so many differences the signed-rank test counts all signs; beyond, the normal distribution is as good."""
EXACT_FLIPS = 12
"""Up to so many differences all sign flips are tried."""
BLOCK = 2**22
"""How many drawn values are held at once."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Samples `(samples, prompts, …)` to one figure each, `(samples,)`."""
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
    """A statistic with its bias-corrected and accelerated bootstrap interval (Efron 1987), drawing whole prompts.

    values: `(prompts, …)`, NaN allowed; prompts with nothing else are left out.
    One prompt says nothing about others: its bounds are NaN. Figures that are all equal: an interval of no width.
    """
    kept = values[~np.isnan(values).all(axis=tuple(range(1, values.ndim)))]
    count = len(kept)
    if not count:
        return Interval(math.nan, math.nan, math.nan)
    value = float(statistic(kept[None])[0])
    if count == 1:
        return Interval(value, math.nan, math.nan)
    figures = _of_samples(statistic, kept, np.random.default_rng(seed).integers(count, size=(draws, count)))
    if np.ptp(figures) == 0:
        return Interval(value, value, value)
    below = float((figures < value).mean() + (figures == value).mean() / 2)
    bias = NORMAL.inv_cdf(min(max(below, 0.5 / draws), 1 - 0.5 / draws))
    acceleration = _acceleration(statistic, kept)
    tails = [_corrected(tail, bias, acceleration) for tail in ((1 - level) / 2, (1 + level) / 2)]
    low, high = np.quantile(figures, tails)
    return Interval(value, float(low), float(high))


def _of_samples(statistic: Statistic, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The statistic of each sample, given as rows of values `(samples, prompts)`."""
    size = max(1, BLOCK // (rows.shape[1] * values[0].size))
    blocks = (rows[start : start + size] for start in range(0, len(rows), size))
    return np.concatenate([statistic(values[block]) for block in blocks])


def _acceleration(statistic: Statistic, values: np.ndarray) -> float:
    """How the statistic's spread changes with its value, from leaving out one prompt at a time."""
    count = len(values)
    all_but_one = (np.arange(count)[:, None] + np.arange(1, count)) % count
    figures = _of_samples(statistic, values, all_but_one)
    deviations = figures.mean() - figures
    spread = float((deviations**2).sum())
    return float((deviations**3).sum()) / (6 * spread**1.5) if spread else 0.0


def _corrected(tail: float, bias: float, acceleration: float) -> float:
    """The share of the drawn figures that stands for this tail of the interval."""
    shift = bias + NORMAL.inv_cdf(tail)
    return NORMAL.cdf(bias + shift / max(1 - acceleration * shift, 1e-6))


def ratio_of_medians(
    first: np.ndarray, second: np.ndarray, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Median of `first` over median of `second`, both `(prompts, seeds)`; only pairs with both figures count."""
    both = np.where(np.isnan(first) | np.isnan(second), np.nan, np.stack([first, second]))

    def ratio(samples: np.ndarray) -> np.ndarray:
        flat = samples.reshape(len(samples), -1, 2)
        return _median(flat[..., 0]) / _median(flat[..., 1])

    return bca(np.moveaxis(both, 0, -1), ratio, level, draws, seed)


def _median(rows: np.ndarray) -> np.ndarray:
    """The median of each row without its NaN, which sorting puts last; many times faster than numpy's own."""
    ordered = np.sort(rows, axis=-1)
    counts = (~np.isnan(rows)).sum(axis=-1, keepdims=True)
    middle = np.concatenate([(counts - 1) // 2, counts // 2], axis=-1)
    return np.take_along_axis(ordered, middle, axis=-1).mean(axis=-1)


def wilcoxon(differences: np.ndarray, alternative: Alternative = "two-sided") -> float:
    """p of Wilcoxon's signed-rank test that differences `(prompts,)` are symmetric around 0.

    "greater" is the one-sided p against differences above 0. Zeros and NaN are left out, equal differences share their
    rank. Exact up to 50 differences, ties included; beyond by the normal distribution with continuity correction.
    Nothing left: 1.
    """
    values = differences[~np.isnan(differences) & (differences != 0)]
    # Twice the mean rank of equal values: a whole number, so that exact counts need no fractions.
    _, place, counts = np.unique(np.abs(values), return_inverse=True, return_counts=True)
    ranks = (2 * np.cumsum(counts) - counts + 1)[place]
    positive = int(ranks[values > 0].sum())
    if len(values) <= EXACT_RANKS:
        chances = _rank_sums(ranks)
        upper, lower = float(chances[positive:].sum()), float(chances[: positive + 1].sum())
    else:
        middle, spread = ranks.sum() / 2, math.sqrt(float((ranks**2).sum())) / 2
        upper, lower = (1 - NORMAL.cdf(side * (positive - middle) / spread - 1 / spread) for side in (1, -1))
    return min(1.0, upper if alternative == "greater" else 2 * min(upper, lower))


def _rank_sums(ranks: np.ndarray) -> np.ndarray:
    """The chance of each sum of ranks, when each rank counts or not by the toss of a coin."""
    chances = np.zeros(int(ranks.sum()) + 1)
    chances[0] = 1
    for rank in ranks:
        taken = np.zeros_like(chances)
        taken[rank:] = chances[:-rank]
        chances = (chances + taken) / 2
    return chances


def sign_flip(
    differences: np.ndarray, alternative: Alternative = "two-sided", draws: int = DRAWS, seed: int = 0
) -> float:
    """p of the sign-flip test that the mean of differences `(prompts,)` is 0: how often do random signs do as much?

    "greater" is the one-sided p against a mean above 0. NaN are left out. Exact up to 12 differences; beyond from
    `draws` random flips, and at least 1 / (draws + 1). Nothing left: 1.
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
    """p values adjusted by Holm's method: any wrong among all that are at most alpha has a chance of alpha at most."""
    order = np.argsort(chances)
    steps = np.asarray(chances, float)[order] * (len(chances) - np.arange(len(chances)))
    adjusted = np.empty(len(chances))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted.tolist()


def wilson(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """A share with Wilson's interval, which stays within 0..1. No trials: NaN."""
    if not trials:
        return Interval(math.nan, math.nan, math.nan)
    share, z = successes / trials, NORMAL.inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def binomial(successes: int, trials: int) -> float:
    """Exact two-sided p that successes and failures are equally likely, such as preferences without ties."""
    more = max(successes, trials - successes)
    tail = sum(math.comb(trials, count) for count in range(more, trials + 1))
    return min(1.0, 2 * tail / 2**trials)
