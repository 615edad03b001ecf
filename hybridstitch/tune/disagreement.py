"""How far the two models are apart over the schedule: what plan `routed` has to know about a pair (TRACK, 2026)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import torch

from hybridstitch.plans import Plan
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.trajectory import Trajectory


@torch.no_grad()
def disagreement(draws: Iterable[Callable[[Recipe], object]]) -> tuple[float, ...]:
    """Relative distance of the models' velocities on the large model's own path, one number a step.

    draws: each draws one calibration picture by the recipe that it is given.
    """
    distances: dict[int, list[float]] = defaultdict(list)
    latest: list[Trajectory] = []

    def look(trajectory: Trajectory) -> None:
        point, large = trajectory.dense[-1]
        distance = (large - trajectory.small_velocity(point)).norm() / large.norm()
        distances[point.index].append(float(distance))

    class Watch(Plan):
        """The large model at all steps, with a look at what the small one would have said at the step before."""

        type = "watch"
        masked = False

        def large_share(self, trajectory: Trajectory) -> float:
            if trajectory.dense:
                look(trajectory)
            trajectory.small_velocity()  # while there is a loop around it: the last look comes after its end
            latest[:] = [trajectory]
            return 1.0

    for draw in draws:
        draw(Recipe(Watch(), name="watch"))
        look(latest[0])  # the last step, which no plan comes after
    return tuple(round(float(np.mean(distances[index])), 4) for index in sorted(distances))
