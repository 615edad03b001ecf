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
    """What the large model said last, as long as the small one finds that it should be by now.

    Magnitude-Direction Decoupling (OpenReview egUfF6cesw) finds that the small model predicts the length well and the
    last answer of the large one the direction. Its authors keep the direction of what the large model added to its
    input, and take the length over the whole output, from the small model without guidance, for both halves of the
    guidance; here it is the direction of the guided velocity, and every token's own length, which grows or shrinks as
    it does in the small model's answer without guidance. Costs half a step of the small model, and as much again after
    every run of dense steps.

    end: fraction of the schedule that is the small model's own at the end, 0 to 1, as in the paper; a whole step each.
    """

    type = "direction"
    dense_steps = 1

    end: Annotated[float, Range(0, 1)] = 0.05

    def velocity(self, trajectory: Trajectory) -> Tensor:
        if trajectory.now.index >= trajectory.steps - round(self.end * trajectory.steps):
            return trajectory.small_velocity()
        length = _lengths(trajectory.small_conditional())
        then = self._length_when_rendered(trajectory)
        trajectory.notes[self] = (trajectory.now.index, length, then)
        last = trajectory.velocities[0]
        return (last * (length / then.clamp(min=1e-6))).to(last.dtype)

    def _length_when_rendered(self, trajectory: Trajectory) -> Tensor:
        """Length of each token in the small model's answer, when the large model rendered it last."""
        dense = trajectory.dense[-1][0]
        seen, length, then = trajectory.notes.get(self, (-1, None, None))
        if seen < dense.index:
            return _lengths(trajectory.small_conditional(dense))
        return torch.where((trajectory.rendered_at == seen).unsqueeze(-1), length, then)


def _lengths(velocity: Tensor) -> Tensor:
    return velocity.float().norm(dim=-1, keepdim=True)
