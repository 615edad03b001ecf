"""Relative distance of the two models at each step, the parameter of plan `routed` (TRACK, 2026)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import torch

from hybridstitch.plans import Plan
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.trajectory import Trajectory


@torch.no_grad()
def disagreement(
    runs: Iterable[Callable[[Recipe], object]], on_picture: Callable[[], object] = lambda: None
) -> tuple[float, ...]:
    """Return |large velocity - small velocity| / |large velocity| on the trajectory of the large model, for each step.

    Args:
        runs: Each generates one calibration picture with the recipe that it receives. The result is their mean.
        on_picture: Called after each of them.
    """
    distances: dict[int, list[float]] = defaultdict(list)
    latest: list[Trajectory] = []

    def compare(trajectory: Trajectory) -> None:
        point, large = trajectory.dense[-1]
        distance = (large - trajectory.small_velocity(point)).norm() / large.norm()
        distances[point.index].append(float(distance))

    class Watch(Plan):
        """Runs the large model at all steps, and compares the small model's velocity at the step before."""

        type = "watch"
        masked = False

        def large_share(self, trajectory: Trajectory) -> float:
            if trajectory.dense:
                compare(trajectory)
            trajectory.small_velocity()  # computed now, as the last step is compared after the loop
            latest[:] = [trajectory]
            return 1.0

    for run in runs:
        run(Recipe(Watch(), name="watch"))
        compare(latest[0])  # the last step, after which no plan is called
        on_picture()
    return tuple(round(float(np.mean(distances[index])), 4) for index in sorted(distances))
