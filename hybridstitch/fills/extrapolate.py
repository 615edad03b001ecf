from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.fills.base import Fill
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Extrapolate(Fill):
    """Goes on from what the large model said last about each token, along the line or parabola of its last answers.

    Every token has its own last noise levels. Costs nothing. With too few answers so far, the order is lower.

    order: 1 or 2. 2 follows a bend, and goes further astray over long gaps.
    strength: of the change added to the last answer, 0 to 1. 1 is the full extrapolation; less is safer at high
        guidance scales and over long gaps, and 0 is `last`.
    """

    type = "extrapolate"
    dense_steps = 1

    order: Annotated[int, Range(1, 2)] = 1
    strength: Annotated[float, Range(0, 1)] = 0.5

    def velocity(self, trajectory: Trajectory) -> Tensor:
        last = trajectory.velocities[0]
        answers = [velocity.float() for velocity in trajectory.velocities]  # differences of noise levels are small
        sigmas = [sigma.unsqueeze(-1) for sigma in trajectory.sigmas]
        known = min(self.order + 1, len(answers))
        if known == 1:
            return last
        ahead = trajectory.now.sigma - sigmas[0]
        slope = _slope(answers[0] - answers[1], sigmas[0] - sigmas[1])
        change = slope * ahead
        if known == 3:
            older = _slope(answers[1] - answers[2], sigmas[1] - sigmas[2])
            bend = _slope(slope - older, sigmas[0] - sigmas[2])
            change = change + bend * ahead * (trajectory.now.sigma - sigmas[1])
        return (answers[0] + self.strength * change).to(last.dtype)


def _slope(change: Tensor, distance: Tensor) -> Tensor:
    """Noise levels only fall; where a schedule repeats one, the answers are equal too, and the line is flat."""
    return change / distance.clamp(max=-1e-6)
