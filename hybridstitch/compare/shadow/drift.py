"""A shadow run over time: windows of samples, and whether the later half differs from the earlier half."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hybridstitch.compare.measured import MeasuredSample
from hybridstitch.compare.measures import TITLES
from hybridstitch.html.document import as_float, render_page
from hybridstitch.html.plots import lines
from hybridstitch.measure.intervals import DRAWS, without_nan

NAMES = {"speedup": "Speed-up of B", **{name: TITLES[name] for name in ("psnr_db", "ssim")}}
"""Titles of the figures that are reported over time."""
LEVEL = 0.95


def figures(sample: MeasuredSample) -> dict[str, float]:
    """Return the figures of one sample, NaN if it has none. The speed-up is a logarithm, so means are geometric."""
    speedup = math.log(sample.a.seconds / sample.b.seconds) if sample.answered else math.nan
    return {"speedup": speedup, **{name: sample.fidelity.get(name, math.nan) for name in ("psnr_db", "ssim")}}


def summarise(
    samples: Sequence[MeasuredSample], size: int, counts: Mapping[str, int], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the report of a shadow run, as JSON.

    Its `drift` is the mean of the later half of the samples minus that of the earlier half, with a 95 % bootstrap
    interval; for the speed-up it is a ratio. A figure has `drifted` if the interval excludes no change. Fewer than
    four samples have no drift.

    Args:
        samples: The samples in order of time.
        size: Samples of a window.
        counts: Numbers of requests, see `Shadow`.
        asked: The settings of the run.
    """
    values = {name: np.array([figures(sample)[name] for sample in samples], float) for name in NAMES}
    windows = []
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        means = {name: _mean(each[start : start + size]) for name, each in values.items()}
        failed = {side: sum(getattr(sample, side).error is not None for sample in part) for side in ("a", "b")}
        windows.append(
            {
                "begun": part[0].a.started,
                "pairs": len(part),
                "identical": sum(sample.identical for sample in part),
                "failed": failed,
                **means,
                "speedup": math.exp(means["speedup"]),
            }
        )
    drift = {name: _drift(each, name == "speedup") for name, each in values.items()} if len(samples) >= 4 else {}
    return without_nan({"format": 1, "counts": dict(counts), "windows": windows, "drift": drift, "asked": dict(asked)})


def sentence(report: Mapping[str, Any]) -> str:
    """Return in one sentence which figures drifted."""
    moved = [NAMES[name] for name, each in report["drift"].items() if each["drifted"]]
    count = f"{sum(window['pairs'] for window in report['windows'])} requests were sent to both"
    if not report["drift"]:
        return f"{count}: too few to speak of drift."
    found = f"drift in {', '.join(moved)}" if moved else "no drift is shown"
    return f"{count}: {found} between the earlier and the later half."


def page(report: Mapping[str, Any]) -> str:
    """Return the report as one page without external files."""
    levels, limits = {"speedup": 1.0}, {"ssim": 1.0}
    plots = {
        name: lines(
            [as_float(each[name]) for each in report["windows"]],
            levels.get(name),
            f"{title} by window",
            limits.get(name, math.inf),
        )
        for name, title in NAMES.items()
    }
    return render_page(
        "shadow.html",
        report=report,
        sentence=sentence(report),
        steady=report["drift"] and not any(each["drifted"] for each in report["drift"].values()),
        titles=NAMES,
        plots=plots,
        settings={**report["counts"], **report["asked"]},
    )


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if (~np.isnan(values)).any() else math.nan


def _drift(values: np.ndarray, as_ratio: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    halves = [half[~np.isnan(half)] for half in np.array_split(values, 2)]
    if not all(map(len, halves)):
        return {"value": math.nan, "low": math.nan, "high": math.nan, "drifted": False}
    drawn = [half[rng.integers(len(half), size=(DRAWS, len(half)))].mean(axis=1) for half in halves]
    low, high = np.quantile(drawn[1] - drawn[0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    found = {"value": float(halves[1].mean() - halves[0].mean()), "low": low, "high": high}
    drifted = not low <= 0 <= high
    return {**({name: math.exp(value) for name, value in found.items()} if as_ratio else found), "drifted": drifted}
