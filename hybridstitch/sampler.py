"""The sampling loop: each step renders a share of the tokens by the large model and fills in the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
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
    """The result of one step. A watcher reads it before the next step begins.

    Attributes:
        index: Number of the step, from 0.
        steps: Steps of the whole schedule.
        timestep: The scheduler's, a scalar tensor.
        sigma: Noise level before the step, 1 to 0.
        latents: Result of the step, `(batch, channels, height, width)`.
        denoised: Prediction of the finished latents (x0), in the same shape; a preview shows it.
        share: Share of the tokens that the large model rendered, 0 to 1.
        tokens: Indices `(batch, k)` of those tokens; None if it rendered all or none.
        trajectory: State of the generation, whose `now` is still the start of this step; None where another loop
            than this one ran the step.
    """

    index: int
    steps: int
    timestep: Tensor
    sigma: float
    latents: Tensor
    denoised: Tensor
    share: float
    tokens: Tensor | None
    trajectory: Trajectory | None = None


def sample(
    latents: Tensor,
    scheduler: FlowMatchEulerDiscreteScheduler,
    large: GuidedModel,
    small: GuidedModel,
    recipe: Recipe,
    on_step: Callable[[Step], Tensor | None],
) -> Tensor:
    """Denoise latents over the scheduler's timesteps.

    Args:
        latents: Noise, `(batch, channels, height, width)`.
        scheduler: Holds the timesteps and takes the Euler steps.
        large, small: The two models of this generation.
        recipe: Decides the share, the tokens and the fill of each step.
        on_step: Called after every step. Latents that it returns replace those of the step; an exception ends the
            generation.

    Returns:
        The denoised latents, in the shape and dtype of `latents`.

    Raises:
        RuntimeError: A strategy returned a value of the wrong shape or NaN.
    """
    trajectory = Trajectory(large.grid(latents), len(scheduler.timesteps), small, large.guidance_scale)
    scores: Tensor | None = None
    scored_at = 0
    sigmas = scheduler.sigmas.tolist()  # once: reading a number from an accelerator waits for its work

    for index, timestep in enumerate(scheduler.timesteps):
        sigma = sigmas[index]
        trajectory.move_to(StepState(index, timestep, sigma, latents))
        share = recipe.plan.large_share(trajectory)
        if math.isnan(share):
            raise _broken(recipe.plan, "a share within 0..1", share)
        if share < 1 and len(trajectory.dense) < recipe.dense_steps(share):
            share = 1.0  # mask, cache and fill start from dense steps

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
            small.prepare(latents, timestep)  # before the large model starts, so that both can run at once
            rendered = large(latents, timestep, trajectory.tokens)
            velocity = _filled(recipe.fill, trajectory)
            trajectory.record(rendered, trajectory.tokens)
            velocity = scatter_rows(velocity, trajectory.tokens, rendered)
            share = trajectory.tokens.shape[1] / trajectory.token_count

        velocity = unpatchify(velocity, trajectory.grid, large.patch_size)
        denoised = latents - sigma * velocity
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        replaced = on_step(
            Step(index, trajectory.steps, timestep, sigma, latents, denoised, share, trajectory.tokens, trajectory)
        )
        latents = latents if replaced is None else replaced
    return latents


def scheduled(
    like: FlowMatchEulerDiscreteScheduler, schedule: int | list[float], device: torch.device
) -> FlowMatchEulerDiscreteScheduler:
    """A scheduler for one generation, so that an exception cannot leave a broken one behind.

    Args:
        like: Its configuration.
        schedule: The number of steps, or their noise levels before the shift.
        device: Where its timesteps are.
    """
    scheduler = type(like).from_config(like.config)
    if isinstance(schedule, int):
        scheduler.set_timesteps(schedule, device=device)
    else:
        scheduler.set_timesteps(len(schedule), sigmas=schedule, device=device)
    scheduler.set_begin_index(0)  # otherwise its first step searches the timestep, and waits for the accelerator
    return scheduler


def _filled(fill: Fill, trajectory: Trajectory) -> Tensor:
    """Return the fill's velocity of every token. Raises RuntimeError if its shape is not the large model's."""
    velocity = fill.velocity(trajectory)
    wanted = trajectory.velocities[0].shape if trajectory.velocities else velocity.shape
    if velocity.shape != wanted:
        raise _broken(fill, f"a velocity (batch, tokens, channels), here {tuple(wanted)}", tuple(velocity.shape))
    return velocity


def _broken(strategy: Strategy, expected: str, got: object) -> RuntimeError:
    """Return the error of a strategy that breaks its contract: a defect of its code, not of a request."""
    return RuntimeError(f"{type(strategy).__name__} ({strategy.type}): expected {expected}, got {got}")


def top_tokens(scores: Tensor, count: int) -> Tensor:
    """Return the indices `(batch, count)` of the highest scores `(batch, tokens)`, ascending; ties go to the first."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values
