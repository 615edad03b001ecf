"""Distance of the two models' velocities over the schedule: the parameter of plan `routed` (TRACK, 2026)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import torch

from hybridstitch.pipeline import StepWatcher
from hybridstitch.sampler import Step


@torch.no_grad()
def disagreement(runs: Iterable[Callable[[StepWatcher], object]]) -> tuple[float, ...]:
    """Return the relative distance of the velocities on the large model's own path, one number for each step.

    Args:
        runs: Each generates one calibration picture by the large model alone and calls its argument after every step.
    """
    distances: dict[int, list[float]] = defaultdict(list)

    def compare(_: range, step: Step) -> None:
        assert step.trajectory is not None
        point, large = step.trajectory.dense[-1]
        distance = (large - step.trajectory.small_velocity(point)).norm() / large.norm()
        distances[step.index].append(float(distance))

    for run in runs:
        run(compare)
    return tuple(round(float(np.mean(distances[index])), 4) for index in sorted(distances))
