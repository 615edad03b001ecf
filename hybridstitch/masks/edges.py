from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Edges(MaskStrategy):
    """Tokens on edges of the picture as it would end from here: where the x0 estimate differs from its neighbours.

    Free. Detail lives on edges, flat backgrounds have none; RALU (arXiv 2507.08422) picks its regions so.
    """

    type = "edges"

    def scores(self, trajectory: Trajectory) -> Tensor:
        x0 = trajectory.x0(trajectory.now, trajectory.velocities[0])
        grid = x0.unflatten(1, trajectory.grid)
        down = (grid[:, 1:] - grid[:, :-1]).norm(dim=-1)
        right = (grid[:, :, 1:] - grid[:, :, :-1]).norm(dim=-1)
        edges = torch.zeros(grid.shape[:3], device=x0.device)
        edges[:, 1:] += down
        edges[:, :-1] += down
        edges[:, :, 1:] += right
        edges[:, :, :-1] += right
        return edges.flatten(1)
