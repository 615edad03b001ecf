"""Positions of the large model's steps that promise the least error, found without a forward.

Along the large model's own trajectory, the error of a fitted jump follows from the recorded states and velocities. It
depends on three dense steps alone: the one before, the one where the jump begins, and the one where it ends. So
dynamic programming finds the best positions for every number of dense steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hybridstitch.fills.fitted import FEATURES
from hybridstitch.tune.fit import solved

SENSITIVITIES = (2.5, 3.5, 2.0, 4.0, 3.0)
"""Exponents of the sensitivity, the most likely first. See `Jumps.best`. A higher one puts the steps earlier: too high,
and the last jump leaves noise in the picture."""
Schedule = tuple[int, ...]
"""The dense steps of a schedule, rising from 0."""


class Jumps:
    """The squared error of every fitted jump along recorded trajectories.

    Args:
        states, velocities, sigmas: see `Trajectories`.
    """

    def __init__(self, states: Tensor, velocities: Tensor, sigmas: Sequence[float]):
        self.steps, self._sigmas = len(velocities), sigmas
        count = 2 * self.steps + 1
        self._products = torch.zeros(count, count, dtype=torch.float64)
        for picture in range(states.shape[1]):
            rows = torch.cat([states[:, picture], velocities[:, picture]]).flatten(1).double()
            self._products += rows @ rows.T
        self._errors = {
            (before, start, end): self._error(before, start, end)
            for start in range(self.steps)
            for end in range(start + 1, self.steps + 1)
            for before in (range(start) if start else (None,))
        }

    def error(self, before: int | None, start: int, end: int) -> float:
        """The squared error at `end` of a jump from the dense step `start`.

        Args:
            before: the dense step before, None if there is none.
            start: where the jump begins.
            end: the next dense step, or the number of steps.
        """
        return self._errors[before, start, end]

    def best(self, dense: int, sensitivity: float) -> Schedule:
        """The positions of this many dense steps with the smallest sum of weighted errors.

        Args:
            dense: number of dense steps.
            sensitivity: how much an early error grows until the end. An error at noise level sigma counts
                exp(sensitivity * sigma) times.
        """
        grown = [math.exp(sensitivity * sigma) for sigma in self._sigmas]
        paths: dict[tuple[int | None, int], tuple[float, Schedule]] = {(None, 0): (0.0, (0,))}
        for _ in range(dense - 1):
            longer: dict[tuple[int | None, int], tuple[float, Schedule]] = {}
            for (before, start), (cost, path) in paths.items():
                for end in range(start + 1, self.steps):
                    found = (cost + grown[end] * self.error(before, start, end), (*path, end))
                    if (start, end) not in longer or found < longer[start, end]:
                        longer[start, end] = found
            paths = longer
        ends = ((cost + self.error(*at, self.steps) * grown[-1], path) for at, (cost, path) in paths.items())
        return min(ends)[1]

    def _error(self, before: int | None, start: int, end: int) -> float:
        if end == start + 1:
            return 0.0  # the large model's own step
        velocity = self.steps + 1
        step = self._sigmas[start + 1] - self._sigmas[start]
        rows = torch.zeros(len(FEATURES) + 1, len(self._products), dtype=torch.float64)
        rows[0, start] = rows[1, velocity + start] = rows[2, velocity + (start if before is None else before)] = 1
        rows[3, [end, start, velocity + start]] = torch.tensor([1, -1, -step], dtype=torch.float64)
        length = self._sigmas[end] - self._sigmas[start + 1]
        rows[3] /= length
        products = rows @ self._products @ rows.T
        left = torch.tensor([*(-weight for weight in solved(products)), 1.0], dtype=torch.float64)
        return max(0.0, float(left @ products @ left)) * length**2


def neighbours(schedule: Schedule, steps: int) -> list[Schedule]:
    """The schedules with one dense step moved by one, the last ones first: these share the most work."""
    found = []
    for place in range(len(schedule) - 1, 0, -1):
        after = schedule[place + 1] if place + 1 < len(schedule) else steps
        for moved in (schedule[place] - 1, schedule[place] + 1):
            if schedule[place - 1] < moved < after:
                found.append((*schedule[:place], moved, *schedule[place + 1 :]))
    return found
