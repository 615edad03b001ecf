"""The generation to explain, recorded so that each of its steps can be replayed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hybridstitch.generation import Generation
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.region import Region
from hybridstitch.sampler import Step
from hybridstitch.trajectory import StepState


@dataclass(frozen=True)
class Recording:
    """One generated picture, with what a replay of each of its steps needs.

    Attributes:
        image: The picture.
        report: The report of the generation, as JSON.
        generation: What was generated.
        points: The state before each step.
        steps: The result of each step.
    """

    image: Image.Image
    report: dict[str, Any]
    generation: Generation
    points: list[StepState]
    steps: list[Step]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        trajectory = self.steps[0].trajectory
        assert trajectory is not None
        return trajectory.grid

    @property
    def recipe(self) -> Recipe:
        """The recipe that ran."""
        assert self.generation.recipe is not None
        return self.generation.recipe

    @property
    def dense(self) -> list[int]:
        """The steps at which the large model rendered every token."""
        return [step.index for step in self.steps if step.share >= 1]

    @property
    def masked(self) -> list[int]:
        """The steps that made a mask: the first with a share of the tokens after each dense one."""
        found: list[int] = []
        fresh = False
        for step in self.steps:
            if step.share >= 1:
                fresh = True
            elif step.share > 0 and step.tokens is not None and fresh:
                found.append(step.index)
                fresh = False
        return found

    def has_choice(self, step: int, always: Tensor | None) -> bool:
        """Return whether the mask of a step selected some tokens and left others.

        Args:
            step: A step that made a mask.
            always: Tokens to leave out, because a region selects them, bool `(tokens,)`.
        """
        selected = self.selected(step)
        free = selected if always is None else selected[~always]
        return bool(free.any()) and not bool(free.all())

    def selected(self, step: int) -> Tensor:
        """Return the tokens that the large model rendered at a step that made a mask, bool `(tokens,)`."""
        tokens = self.steps[step].tokens
        assert tokens is not None  # it made a mask
        selected = torch.zeros(self.grid[0] * self.grid[1], dtype=torch.bool, device=tokens.device)
        return selected.index_fill(0, tokens[0], True)

    def replay_start(self, step: int) -> int:
        """Return the dense step from which a mask can be replayed: the last but one before `step`, or the only one."""
        return [dense for dense in self.dense if dense < step][-2:][0]

    def inside(self, region: Region, cell: int) -> Tensor:
        """Return the tokens that a region touches, bool `(tokens,)`. cell: Width and height of a token in pixels."""
        left, top, right, bottom = region
        inside = torch.zeros(self.grid, dtype=torch.bool, device=self.points[0].latents.device)
        inside[top // cell : -(-bottom // cell), left // cell : -(-right // cell)] = True
        return inside.flatten()


def record(pipeline: HybridStitchPipeline, generation: Generation, check: Callable[[], None]) -> Recording:
    """Generate one picture, the same as a prediction of the same request, and keep the state of every step.

    Args:
        pipeline: The pair.
        generation: A generation of one picture.
        check: Called after every step; an exception in it ends the generation.
    """
    steps: list[Step] = []
    points: list[StepState] = []

    def on_step(_: range, step: Step) -> None:
        assert step.trajectory is not None
        steps.append(step)
        points.append(step.trajectory.now)
        check()

    out = pipeline.generate(generation, on_step=on_step)
    return Recording(out.images[0], out.report.to_dict(), generation, points, steps)
