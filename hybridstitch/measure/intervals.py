"""A figure with its interval, and means with intervals over groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
"""Number of bootstrap resamples."""
LEVEL = 0.95
"""Confidence level of intervals."""


@dataclass(frozen=True)
class Interval:
    """A figure with its interval, of 95 % by default."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """`value (low to high)`, each number in this format."""
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def without_nan(value: Any) -> Any:
    """Nested dictionaries, lists and numbers with None in place of NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def by_group(values: np.ndarray, seed: int = 0) -> Interval:
    """The mean over all values, with a 95 % percentile bootstrap interval over whole groups.

    Args:
        values: `(groups, …)`, such as prompts by seeds; NaN where there is none. Pictures of one prompt resemble each
            other, so prompts are resampled.
        seed: of the resamples.
    """
    kept = values[~np.isnan(values).all(axis=tuple(range(1, values.ndim)))]
    if not len(kept):
        return Interval(float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(len(kept), size=(DRAWS, len(kept)))
    figures = [float(np.nanmean(kept[rows])) for rows in drawn]
    low, high = np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.nanmean(kept)), float(low), float(high))
