"""The generation that is explained, with what is needed to come back to each of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.sampler import Step
from hybridstitch.trajectory import StepState


@dataclass(frozen=True)
class Recording:
    """One picture and the way to it.

    points: what each step started from. steps: what each step did.
    """

    image: Image.Image
    report: dict[str, Any]
    recipe: Recipe
    points: list[StepState]
    steps: list[Step]
    grid: tuple[int, int]

    @property
    def dense(self) -> list[int]:
        """The steps at which the large model rendered every token."""
        return [step.index for step in self.steps if step.share >= 1]

    @property
    def masked(self) -> list[int]:
        """The steps that made a mask: the first with a share of the tokens after each dense one."""
        return [
            step.index
            for before, step in zip(self.steps, self.steps[1:], strict=False)
            if before.share >= 1 and step.tokens is not None and step.share < 1
        ]

    def has_choice(self, step: int, always: Tensor | None) -> bool:
        """Whether the mask of a step chose some tokens and left others, beside those at `always` `(tokens,)`."""
        chosen = self.chosen(step)
        free = chosen if always is None else chosen[~always]
        return bool(free.any()) and not bool(free.all())

    def chosen(self, step: int) -> Tensor:
        """The tokens that the large model rendered at a step that made a mask, bool `(tokens,)`."""
        tokens = self.steps[step].tokens
        assert tokens is not None  # it made a mask
        chosen = torch.zeros(self.grid[0] * self.grid[1], dtype=torch.bool, device=tokens.device)
        return chosen.index_fill(0, tokens[0], True)

    def latest_dense(self, index: int) -> int:
        """Where the last two dense steps before a step begin: all that a mask of that step looks at lies behind."""
        return [dense for dense in self.dense if dense < index][-2:][0]


def record(pipeline: HybridStitchPipeline, prompt: str, seed: int, watch: Any, **arguments: Any) -> Recording:
    """The picture that a prediction of the same request gives. `watch` is called after every step."""
    generator = [torch.Generator().manual_seed(seed)]
    latents = pipeline.initial_latents(arguments["width"], arguments["height"], generator)
    steps: list[Step] = []

    def on_step(_: range, step: Step) -> None:
        steps.append(step)
        watch()

    out = pipeline(prompt, generator=generator, latents=latents, on_step=on_step, **arguments)
    starts: list[Tensor] = [latents, *(step.latents for step in steps[:-1])]
    noise_levels = pipeline.components["scheduler"].config.num_train_timesteps
    points = [
        StepState(step.index, step.timestep, float(step.timestep) / noise_levels, start)
        for step, start in zip(steps, starts, strict=True)
    ]
    patch = pipeline.large.config.patch_size
    grid = (latents.shape[2] // patch, latents.shape[3] // patch)
    return Recording(out.images[0], out.report.to_dict() | {"seed": seed}, out.report.recipe, points, steps, grid)
