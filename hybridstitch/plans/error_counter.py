from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class ErrorCounter(Plan):
    """The large model again once the small one's answers have turned far enough since its last step (MDD).

    Counts one minus the cosine between the small model's answers to the prompt alone at consecutive steps; needs half
    a step of the small model each time, so use it with fill `direction`, which needs that anyway.
    MDD is Magnitude-Direction Decoupling, OpenReview egUfF6cesw.

    limit: the count that calls for a large step, 0 to 1. More is faster; the authors take 0.001 to 0.01.
    start: fraction of the schedule that is the large model's at the beginning, 0 to 1; one step at least.
    end: fraction that is the fill's at the end, 0 to 1.
    """

    type = "error-counter"
    masked = False
    adaptive = True

    limit: Annotated[float, Range(0, 1)] = 0.005
    start: Annotated[float, Range(0, 1)] = 0.2
    end: Annotated[float, Range(0, 1)] = 0.05

    def large_share(self, trajectory: Trajectory) -> float:
        index, steps = trajectory.now.index, trajectory.steps
        if index < max(1, round(self.start * steps)):
            return 1.0
        if index >= steps - round(self.end * steps):
            return 0.0
        velocity = trajectory.small_conditional().float()
        last_dense = trajectory.dense[-1][0]
        counted, before = 0.0, None
        if last_dense.index < index - 1:
            counted, before = trajectory.notes[self]
        before = trajectory.small_conditional(last_dense).float() if before is None else before
        counted += 1 - float(torch.cosine_similarity(velocity.flatten(), before.flatten(), dim=0))
        trajectory.notes[self] = (counted, velocity)
        return 1.0 if counted > self.limit else 0.0
