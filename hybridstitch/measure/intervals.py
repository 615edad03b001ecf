"""Means of figures that come in groups, with intervals that respect the groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its interval, of 95 % unless said otherwise."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """`value (low to high)`, each number in this format."""
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def without_nan(value: Any) -> Any:
    """Nested dictionaries, lists and numbers with None for NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def by_group(values: np.ndarray, seed: int = 0) -> Interval:
    """The mean over all values, with a 95 % percentile bootstrap interval that draws whole groups.

    values: `(groups, …)`, such as prompts by seeds: pictures of one prompt are alike, so it is prompts that are drawn.
        NaN where there is no value.
    """
    kept = values[~np.isnan(values).all(axis=tuple(range(1, values.ndim)))]
    if not len(kept):
        return Interval(float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(len(kept), size=(DRAWS, len(kept)))
    figures = [float(np.nanmean(kept[rows])) for rows in drawn]
    low, high = np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(np.nanmean(kept)), float(low), float(high))
