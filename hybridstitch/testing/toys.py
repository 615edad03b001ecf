"""Real SD3 transformers of toy size, and a pair of them on the real loop, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor

from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.mmdit import cached_attention, unpatchify
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.sampler import Step, sample
from hybridstitch.trajectory import StepState, Trajectory

LAYOUTS: dict[str, dict[str, Any]] = {
    "sd3": {"qk_norm": None},
    "sd35-large": {"qk_norm": "rms_norm"},
    "sd35-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
}
"""What distinguishes the transformers of SD3, SD3.5-Large and SD3.5-Medium, besides their size."""


def tiny_transformer(
    layout: str, layers: int = 3, heads: int = 2, seed: int = 0, **config: Any
) -> SD3Transformer2DModel:
    """A real SD3 transformer of toy size with random weights, including those that training initialises with zeros."""
    sizes = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": layers,
        "attention_head_dim": 8,
        "num_attention_heads": heads,
        "joint_attention_dim": 32,
        "caption_projection_dim": 8 * heads,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 12,
    }
    transformer = SD3Transformer2DModel(**(sizes | LAYOUTS[layout] | config))
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.2 + (parameter == 1))
    return transformer.eval()


class TinyPair:
    """A large and a small transformer of toy size, with a random prompt and noise for each picture number."""

    def __init__(self, large: str = "sd35-large", small: str = "sd35-medium"):
        self.large = tiny_transformer(large)
        self.small = tiny_transformer(small, layers=2, seed=1)

    @contextmanager
    def trajectory(self, grid: tuple[int, int], pictures: list[int]) -> Iterator[Trajectory]:
        """A batch of these pictures before step 2 of 10, after two dense steps of the large model."""
        large, small = self._models(pictures)
        scheduler = _scheduler(10)
        trajectory = Trajectory(grid, 10, small, large.guidance_scale)
        latents = self._latents(grid, pictures)
        with torch.no_grad(), cached_attention(self.large), cached_attention(self.small):
            for index, timestep in enumerate(scheduler.timesteps[:3]):
                trajectory.move_to(StepState(index, timestep, float(scheduler.sigmas[index]), latents))
                if index < 2:
                    velocity = large(latents, timestep)
                    trajectory.record(velocity)
                    latents = scheduler.step(unpatchify(velocity, grid, 2), timestep, latents, return_dict=False)[0]
            yield trajectory

    def generate(self, recipe: Recipe, grid: tuple[int, int], pictures: list[int], steps: int = 6) -> list[Step]:
        """The steps of the real loop on a batch of these pictures."""
        if recipe.plan.adaptive and len(pictures) > 1:
            alone = [self.generate(recipe, grid, [picture], steps) for picture in pictures]
            return [
                replace(each[0], latents=torch.cat([step.latents for step in each]))
                for each in zip(*alone, strict=True)
            ]
        large, small = self._models(pictures, recipe.plan.masked, recipe.fill.cached)
        done: list[Step] = []
        with torch.no_grad(), cached_attention(self.large), cached_attention(self.small):
            sample(self._latents(grid, pictures), _scheduler(steps), large, small, recipe, done.append)
        return done

    def _models(
        self, pictures: list[int], large_cached: bool = True, small_cached: bool = True
    ) -> tuple[GuidedModel, GuidedModel]:
        context, pooled = _noise((5, 32), pictures), _noise((32,), pictures)
        context, pooled = torch.cat([-context, context]), torch.cat([-pooled, pooled])
        return (
            GuidedModel(self.large, context, pooled, 3.0, large_cached),
            GuidedModel(self.small, context, pooled, 3.0, small_cached),
        )

    def _latents(self, grid: tuple[int, int], pictures: list[int]) -> Tensor:
        return _noise((4, 2 * grid[0], 2 * grid[1]), pictures)


def _scheduler(steps: int) -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    return scheduler


def _noise(shape: tuple[int, ...], pictures: list[int]) -> Tensor:
    """Random numbers that depend on the picture number and not on its place in the batch."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(number)) for number in pictures])
