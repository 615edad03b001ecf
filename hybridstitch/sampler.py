"""The loop. Each step asks three questions: what share is the large model's, which tokens, and who does the rest?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from hybridstitch.fills import Fill
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.mmdit import scatter_rows, unpatchify
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import StepState, Trajectory


@dataclass(frozen=True)
class Step:
    """What one step did.

    index: from 0, of so many `steps`.
    latents: those it ended with, `(batch, channels, height, width)`.
    denoised: the picture that they lead to by now (x0), in the same shape: what a preview shows.
    share: of the tokens, rendered by the large model, 0 to 1.
    tokens: which ones, `(batch, k)` indices; None if it was all or none.
    """

    index: int
    steps: int
    timestep: Tensor
    latents: Tensor
    denoised: Tensor
    share: float
    tokens: Tensor | None


def sample(
    latents: Tensor,
    scheduler: FlowMatchEulerDiscreteScheduler,
    large: GuidedModel,
    small: GuidedModel,
    recipe: Recipe,
    on_step: Callable[[Step], Tensor | None],
) -> Tensor:
    """Denoise `latents` `(batch, channels, height, width)` over the scheduler's timesteps.

    `on_step` is called after every step; latents that it returns replace the step's own, and an exception in it
    ends the generation. Returns the denoised latents in the shape and dtype that came in.
    """
    trajectory = Trajectory(large.grid(latents), len(scheduler.timesteps), small)
    scores: Tensor | None = None
    scored_at = 0

    for index, timestep in enumerate(scheduler.timesteps):
        trajectory.move_to(StepState(index, timestep, float(scheduler.sigmas[index]), latents))
        share = recipe.plan.large_share(trajectory)
        if math.isnan(share):
            raise _broken(recipe.plan, "a share within 0..1", share)
        if share < 1 and len(trajectory.dense) < recipe.dense_steps(share):
            share = 1.0  # nothing to choose by, to attend to or to go on from, yet

        if share >= 1:
            velocity = large(latents, timestep)
            trajectory.record(velocity)
            scores = None
        elif share <= 0:
            velocity = _filled(recipe.fill, trajectory)
        else:
            if scores is None or 0 < recipe.mask.refresh <= index - scored_at:
                scores, scored_at = recipe.mask.scores(trajectory), index
                if scores.shape != (len(latents), trajectory.token_count):
                    wanted = f"scores (batch, tokens), here ({len(latents)}, {trajectory.token_count})"
                    raise _broken(recipe.mask, wanted, tuple(scores.shape))
            trajectory.tokens = top_tokens(scores, recipe.mask.count(share, trajectory.token_count))
            velocity = _filled(recipe.fill, trajectory)
            rendered = large(latents, timestep, trajectory.tokens)
            trajectory.record(rendered, trajectory.tokens)
            velocity = scatter_rows(velocity, trajectory.tokens, rendered)
            share = trajectory.tokens.shape[1] / trajectory.token_count

        velocity = unpatchify(velocity, trajectory.grid, large.patch_size)
        x0 = latents - float(scheduler.sigmas[index]) * velocity
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        replaced = on_step(Step(index, trajectory.steps, timestep, latents, x0, share, trajectory.tokens))
        latents = latents if replaced is None else replaced
    return latents


def _filled(fill: Fill, trajectory: Trajectory) -> Tensor:
    """The fill's velocity of every token. Raises RuntimeError if it has another shape than the large model's."""
    velocity = fill.velocity(trajectory)
    wanted = trajectory.velocities[0].shape if trajectory.velocities else velocity.shape
    if velocity.shape != wanted:
        raise _broken(fill, f"a velocity (batch, tokens, channels), here {tuple(wanted)}", tuple(velocity.shape))
    return velocity


def _broken(strategy: Strategy, expected: str, got: object) -> RuntimeError:
    """The error of a strategy that breaks its contract: a defect of its code, not of a request."""
    return RuntimeError(f"{type(strategy).__name__} ({strategy.type}): expected {expected}, got {got}")


def top_tokens(scores: Tensor, count: int) -> Tensor:
    """Indices `(batch, count)` of the highest scores `(batch, tokens)`, in reading order; ties go to the first."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values
