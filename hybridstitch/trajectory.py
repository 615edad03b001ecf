"""What one generation has computed so far: the state that plans, masks and fills may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Point:
    """The latents before one step.

    index: the step, from 0. timestep: as the scheduler has it, a scalar tensor. sigma: the share of noise, 1 to 0.
    latents: `(batch, channels, height, width)`.
    """

    index: int
    timestep: Tensor
    sigma: float
    latents: Tensor


@dataclass
class Trajectory:
    """One generation, from noise to now. The loop makes one for each generation and drops it at the end.

    grid: rows and columns of image tokens; a score or mask is row-major over it.
    steps: how many steps the schedule has.
    now: the point that the current step starts from.
    dense: the points at which the large model rendered every token, with its velocity
        `(batch, tokens, patch * patch * channels)` there; the last two, latest last.
    """

    grid: tuple[int, int]
    steps: int
    small_model: Callable[[Tensor, Tensor], Tensor]
    now: Point = field(init=False)
    dense: list[tuple[Point, Tensor]] = field(default_factory=list)
    _small: dict[int, Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The number of image tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def batch(self) -> int:
        """The number of pictures."""
        return self.now.latents.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the latents are: scores belong there too."""
        return self.now.latents.device

    def move_to(self, point: Point) -> None:
        """Start the next step."""
        self.now = point
        kept = {seen.index for seen, _ in self.dense}
        self._small = {index: velocity for index, velocity in self._small.items() if index in kept}

    def record_dense(self, velocity: Tensor) -> Tensor:
        """Remember what the large model said about all tokens just now."""
        self.dense = [*self.dense[-1:], (self.now, velocity)]
        return velocity

    def small_velocity(self, at: Point | None = None) -> Tensor:
        """The small model's velocity `(batch, tokens, patch * patch * channels)` at a point, by default now.

        Costs a forward of the small model the first time it is asked for at a point; the report counts it.
        """
        point = at or self.now
        if point.index not in self._small:
            self._small[point.index] = self.small_model(point.latents, point.timestep)
        return self._small[point.index]
