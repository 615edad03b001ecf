from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from hybridstitch.errors import Problem
from hybridstitch.masks.base import MaskStrategy
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Box(MaskStrategy):
    """Tokens in a fixed box, then the nearest around it: for subjects at a known place, and as a control.

    If the plan's share is larger than the box, the tokens nearest to it join. If it is smaller, those nearest to its
    centre stay. The box decides where the large model works and not how much, so it has no effect on speed.

    Args:
        left: left edge as a fraction of the width, 0 to 1 and below `right`, default 0.25.
        top: top edge as a fraction of the height, 0 to 1 and below `bottom`, default 0.25.
        right: right edge as a fraction of the width, 0 to 1, default 0.75.
        bottom: bottom edge as a fraction of the height, 0 to 1, default 0.75.
    """

    type = "box"

    left: Annotated[float, Range(0, 1)] = 0.25
    top: Annotated[float, Range(0, 1)] = 0.25
    right: Annotated[float, Range(0, 1)] = 0.75
    bottom: Annotated[float, Range(0, 1)] = 0.75

    def scores(self, trajectory: Trajectory) -> Tensor:
        rows, columns = trajectory.grid
        y = ((torch.arange(rows, device=trajectory.device) + 0.5) / rows).unsqueeze(1)
        x = ((torch.arange(columns, device=trajectory.device) + 0.5) / columns).unsqueeze(0)
        outside = torch.hypot(
            (self.left - x).clamp(min=0) + (x - self.right).clamp(min=0),
            (self.top - y).clamp(min=0) + (y - self.bottom).clamp(min=0),
        )
        from_centre = torch.hypot(x - (self.left + self.right) / 2, y - (self.top + self.bottom) / 2)
        # The distance to the centre is at most sqrt(2); scaled down, it only orders the tokens inside the box.
        score = -outside - 1e-3 * from_centre
        return score.flatten().expand(trajectory.batch, -1)

    def problems(self, field: str) -> list[Problem]:
        return super().problems(field) + [
            Problem(f"{field}.{high}", f"more than {low}, which is {getattr(self, low)}", getattr(self, high))
            for low, high in (("left", "right"), ("top", "bottom"))
            if self.parameters()[high].accepts(getattr(self, high)) and not getattr(self, low) < getattr(self, high)
        ]
