from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from hybridstitch.fills.base import Fill
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Extrapolate(Fill):
    """The large model's last velocities, extrapolated to the current noise level, for each token by itself.

    Needs no forward. While a token has too few velocities, the order is lower.

    Args:
        order: 1 for a line, 2 for a parabola, default 1. A parabola follows curvature, and is less accurate over long
            gaps. No effect on speed.
        strength: share of the extrapolated change that is added, 0 to 1, default 0.5; 0 is fill `last`. Less is safer
            at high guidance scales and over long gaps. No effect on speed.
    """

    type = "extrapolate"
    dense_steps = 1

    order: Annotated[int, Range(1, 2)] = 1
    strength: Annotated[float, Range(0, 1)] = 0.5

    def velocity(self, trajectory: Trajectory) -> Tensor:
        last = trajectory.velocities[0]
        velocities = [each.float() for each in trajectory.velocities]  # float32: differences are small
        sigmas = [sigma.unsqueeze(-1) for sigma in trajectory.sigmas]
        known = min(self.order + 1, len(velocities))
        if known == 1:
            return last
        ahead = trajectory.now.sigma - sigmas[0]
        slope = _slope(velocities[0] - velocities[1], sigmas[0] - sigmas[1])
        change = slope * ahead
        if known == 3:
            older = _slope(velocities[1] - velocities[2], sigmas[1] - sigmas[2])
            bend = _slope(slope - older, sigmas[0] - sigmas[2])
            change = change + bend * ahead * (trajectory.now.sigma - sigmas[1])
        return (velocities[0] + self.strength * change).to(last.dtype)


def _slope(change: Tensor, distance: Tensor) -> Tensor:
    # Noise levels fall. Where a schedule repeats one, the velocities are equal too, and the slope is 0.
    return change / distance.clamp(max=-1e-6)
