"""Runs with known truth: what two endpoints would answer."""

from __future__ import annotations

import numpy as np

from hybridstitch.compare.verdict.samples import Sample


def run(
    rng: np.random.Generator,
    prompts: int = 24,
    seeds: int = 2,
    speedup: float = 2.0,
    quality: float = 0.0,
    nearness: float | None = None,
    spread: float = 0.05,
    within: float = 0.0,
) -> list[Sample]:
    """Pairs of a B that is this much faster, and this much better by the metric "clip".

    spread, within: standard deviation of quality between prompts, and between its seeds. nearness: mean "psnr" if any.
    """
    shape = (prompts, seeds)
    seconds_a = np.exp(rng.normal(0, 0.2, (prompts, 1)) + rng.normal(0, 0.05, shape))
    seconds_b = seconds_a / speedup * np.exp(rng.normal(0, 0.05, (prompts, 1)) + rng.normal(0, 0.05, shape))
    clip = quality + rng.normal(0, spread, (prompts, 1)) + rng.normal(0, within, shape)
    psnr = (nearness or 0.0) + rng.normal(0, 2, (prompts, 1)) + rng.normal(0, 1, shape)
    return [
        Sample(
            f"prompt {row}",
            column,
            float(seconds_a[row, column]),
            float(seconds_b[row, column]),
            {"clip": float(clip[row, column])} | ({"psnr": float(psnr[row, column])} if nearness is not None else {}),
        )
        for row in range(prompts)
        for column in range(seeds)
    ]


def at_most(alpha: float, alarms: int, runs: int) -> bool:
    """Whether so many alarms fit a chance of alpha: within 2.6 standard errors, which is left in 1 of 200 cases."""
    return alarms <= runs * alpha + 2.6 * np.sqrt(runs * alpha * (1 - alpha))
