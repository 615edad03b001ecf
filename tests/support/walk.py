"""A generation small enough to follow by hand: four tokens, a few steps, and answers that are written down."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hybridstitch.trajectory import StepState, Trajectory

STEPS = 4


def latents_of(values: list[float]) -> Tensor:
    """A 2 x 2 grid of one-channel tokens, one pixel each."""
    return torch.tensor(values).view(1, 1, 2, 2)


def rows_of(values: list[float]) -> Tensor:
    return torch.tensor(values).view(1, 4, 1)


def no_small_model(*_: Tensor) -> Tensor:
    raise AssertionError("the small model was not to be asked")


class Small:
    """A small model whose answers are written down, the same with and without guidance."""

    def __init__(self, answer: Callable[..., Tensor]):
        self.answer = answer

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        return self.answer(latents, timestep, tokens)

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        return self.answer(latents, timestep)


class Walk:
    """A generation of four tokens over sigmas 1, 0.75, 0.5, 0.25, step by step, with answers written down."""

    def __init__(
        self,
        small: Callable[..., Tensor] = no_small_model,
        steps: int = STEPS,
        grid: tuple[int, int] = (2, 2),
        channels: int = 1,
    ):
        self.trajectory = Trajectory(grid, steps, Small(small))
        self.steps = steps
        self.nothing = torch.zeros(1, channels, *grid)
        self.at(0)

    def at(self, index: int, latents: list[float] | None = None) -> Walk:
        point = StepState(
            index, torch.tensor(0.0), 1 - index / self.steps, latents_of(latents) if latents else self.nothing
        )
        self.trajectory.move_to(point)
        return self

    def large(self, *values: float, tokens: list[int] | None = None) -> Walk:
        where = None if tokens is None else torch.tensor([tokens])
        self.trajectory.tokens = where
        self.trajectory.record(torch.tensor(values, dtype=torch.float32).view(1, -1, 1), where)
        return self
