from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class ErrorCounter(Plan):
    """A dense step whenever the small model's velocity has turned far enough since the last one (MDD).

    The turn is one minus the cosine between the small model's conditional velocities at consecutive steps, summed
    since the last dense step. Each costs half a guided forward of the small model. Fill `direction` reuses it, so
    combine the two. MDD is Magnitude-Direction Decoupling (OpenReview egUfF6cesw).

    Args:
        limit: turn above which a dense step follows, 0 to 1, default 0.005; the paper uses 0.001 to 0.01. A higher one
            takes fewer dense steps, which is faster and further from the large model's picture.
        start: fraction of the schedule that is dense at the beginning, 0 to 1 and at least one step, default 0.2. More
            is slower, and closer to the large model's layout.
        end: fraction at the end that is left to the fill, 0 to 1, default 0.05. More is faster, and further from the
            large model's detail.
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
