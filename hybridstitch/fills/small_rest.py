from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridstitch.fills.base import Fill
from hybridstitch.model.mmdit import scatter_rows
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class SmallRest(Fill):
    """The small model, on the tokens that the large model does not render.

    Cheaper than `small` by the share of the mask. It attends to its own cached keys and values of the other tokens,
    which are as old as its last forward on them.
    The first step after a dense step runs on the whole latent.
    """

    type = "small-rest"
    cached = True

    def velocity(self, trajectory: Trajectory) -> Tensor:
        last_dense = trajectory.dense[-1][0].index if trajectory.dense else -1
        if trajectory.tokens is None or trajectory.now.index == last_dense + 1:
            return trajectory.small_velocity()
        count = trajectory.token_count - trajectory.tokens.shape[1]
        if not count:
            return trajectory.velocities[0]
        taken = torch.zeros(trajectory.batch, trajectory.token_count, dtype=torch.uint8, device=trajectory.device)
        taken.scatter_(1, trajectory.tokens, 1)
        # A stable sort puts the others first, in order. `nonzero` would wait for the accelerator to count them.
        rest = taken.sort(dim=1, stable=True).indices[:, :count]
        velocity = trajectory.small_model(trajectory.now.latents, trajectory.now.timestep, rest)
        return scatter_rows(trajectory.velocities[0], rest, velocity)
