"""Relative distance of the two models at each step, the parameter of plan `routed` (TRACK, 2026)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import torch

from hybridstitch.pipeline import StepWatcher
from hybridstitch.sampler import Step


@torch.no_grad()
def disagreement(
    runs: Iterable[Callable[[StepWatcher], object]], on_picture: Callable[[], object] = lambda: None
) -> tuple[float, ...]:
    """Return |large velocity - small velocity| / |large velocity| on the trajectory of the large model, for each step.

    Args:
        runs: Each generates one calibration picture by the large model alone, and calls its argument after every
            step. The result is their mean.
        on_picture: Called after each of them.
    """
    distances: dict[int, list[float]] = defaultdict(list)

    def compare(_: range, step: Step) -> None:
        assert step.trajectory is not None
        point, large = step.trajectory.dense[-1]
        distance = (large - step.trajectory.small_velocity(point)).norm() / large.norm()
        distances[step.index].append(float(distance))

    for run in runs:
        run(compare)
        on_picture()
    return tuple(round(float(np.mean(distances[index])), 4) for index in sorted(distances))
