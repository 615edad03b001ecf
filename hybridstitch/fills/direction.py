from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from hybridstitch.fills.base import Fill
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Direction(Fill):
    """The large model's last velocity, rescaled as the small model's norm has changed since then (MDD).

    Magnitude-Direction Decoupling (OpenReview egUfF6cesw) finds that the small model predicts the norm well, and that
    the large model's last prediction has the right direction. The paper takes the direction of what the large model
    added to its input, for cond and uncond alike, and one norm for the whole output. Here it is the direction of the
    guided velocity, and each token has its own norm. Norms come from the small model's conditional velocity, which
    costs half a guided forward at each step, and half a forward more after each run of dense steps.

    Args:
        end: fraction of the schedule at the end that the small model predicts alone, 0 to 1, default 0.05 as in the
            paper. More is slower, as these steps take guided forwards, and closer to the small model's detail.
    """

    type = "direction"
    dense_steps = 1

    end: Annotated[float, Range(0, 1)] = 0.05

    def velocity(self, trajectory: Trajectory) -> Tensor:
        if trajectory.now.index >= trajectory.steps - round(self.end * trajectory.steps):
            return trajectory.small_velocity()
        norm = _norms(trajectory.small_conditional())
        then = self._norm_when_rendered(trajectory)
        trajectory.notes[self] = (trajectory.now.index, norm, then)
        last = trajectory.velocities[0]
        return (last * (norm / then.clamp(min=1e-6))).to(last.dtype)

    def _norm_when_rendered(self, trajectory: Trajectory) -> Tensor:
        """The norm of the small model's conditional velocity when the large model last rendered each token."""
        dense = trajectory.dense[-1][0]
        seen, norm, then = trajectory.notes.get(self, (-1, None, None))
        if seen < dense.index:
            return _norms(trajectory.small_conditional(dense))
        return torch.where((trajectory.rendered_at == seen).unsqueeze(-1), norm, then)


def _norms(velocity: Tensor) -> Tensor:
    return velocity.float().norm(dim=-1, keepdim=True)
