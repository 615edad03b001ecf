from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridstitch.masks.base import MaskStrategy
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Edges(MaskStrategy):
    """Tokens on edges of the predicted picture: where the x0 estimate differs most from its neighbours.

    Edges carry detail, and flat backgrounds have none. RALU (arXiv 2507.08422) selects its regions by edges, too. The
    mask needs no forward.
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
