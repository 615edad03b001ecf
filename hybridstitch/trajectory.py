"""The state of one generation, which plans, masks and fills read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from hybridstitch.model.mmdit import gather_rows, patchify, scatter_rows

DEPTH = 3
"""Number of velocities kept for each token: enough for a second-order extrapolation."""


@dataclass(frozen=True)
class StepState:
    """The state before one step.

    Attributes:
        index: the step, from 0.
        timestep: of the scheduler, a scalar tensor.
        sigma: noise level, from 1 (noise) to 0 (picture).
        latents: `(batch, channels, height, width)`.
    """

    index: int
    timestep: Tensor
    sigma: float
    latents: Tensor


class SmallModel(Protocol):
    """The small model during one generation; see `GuidedModel`."""

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Guided velocity of all image tokens, or of those at `tokens`."""

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Velocity of all image tokens for the prompt, without guidance."""


@dataclass
class Trajectory:
    """The state of one generation. The loop creates it and drops it at the end.

    Tokens are rendered at different steps. So `velocities`, `sigmas` and `denoised` hold for each token its own last
    renders by the large model, latest first: as many as there were dense steps, at most three.

    Attributes:
        grid: rows and columns of image tokens; scores and masks are row-major over it.
        steps: number of steps of the schedule.
        guidance_scale: of classifier-free guidance; 1 and below for none.
        now: state before the current step.
        tokens: indices `(batch, k)` that the large model renders at a hybrid step; None at other steps.
        dense: the last two dense steps, latest last: the state before each, and the large model's velocity
            `(batch, tokens, patch * patch * channels)`.
        velocities: the large model's velocities, each `(batch, tokens, patch * patch * channels)`.
        sigmas: the noise levels of `velocities`, each `(batch, tokens)`.
        denoised: the x0 estimates of `velocities`, of the same shape, float32.
        rendered_at: the step `(batch, tokens)` at which the large model last rendered each token; unset before the
            first dense step.
        notes: free for strategies to store what they need until the end of the generation, under themselves as key.
    """

    grid: tuple[int, int]
    steps: int
    small_model: SmallModel
    guidance_scale: float = 1.0
    now: StepState = field(init=False)
    tokens: Tensor | None = None
    dense: list[tuple[StepState, Tensor]] = field(default_factory=list)
    velocities: list[Tensor] = field(default_factory=list)
    sigmas: list[Tensor] = field(default_factory=list)
    denoised: list[Tensor] = field(default_factory=list)
    rendered_at: Tensor = field(init=False)
    notes: dict[Any, Any] = field(default_factory=dict)
    _small: dict[int, Tensor] = field(default_factory=dict)
    _small_conditional: dict[int, Tensor] = field(default_factory=dict)
    _correction: Tensor | None = None

    @property
    def token_count(self) -> int:
        """The number of image tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def batch(self) -> int:
        """The number of pictures."""
        return self.now.latents.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the latents; scores must be on it, too."""
        return self.now.latents.device

    @property
    def age(self) -> Tensor:
        """Steps since the large model last rendered each token, `(batch, tokens)`; 0 for the current step."""
        return self.now.index - self.rendered_at

    def move_to(self, state: StepState) -> None:
        """Start the next step."""
        self.now = state
        self.tokens = None
        kept = {seen.index for seen, _ in self.dense}
        for velocities in (self._small, self._small_conditional):
            for index in velocities.keys() - kept:
                del velocities[index]

    def record(self, velocity: Tensor, tokens: Tensor | None = None) -> None:
        """Store the large model's velocity at the current step.

        Args:
            velocity: `(batch, tokens or k, patch * patch * channels)`.
            tokens: indices `(batch, k)` that it belongs to; None for a dense step.
        """
        if tokens is None:
            self.dense = [*self.dense[-1:], (self.now, velocity)]
            self._correction = None
        elif self._correction is not None and self.now.index in self._small:
            difference = velocity - gather_rows(self._small[self.now.index], tokens)
            self._correction = scatter_rows(self._correction, tokens, difference)
        sigma = torch.full(velocity.shape[:2], self.now.sigma, device=self.device)
        step = torch.full(velocity.shape[:2], self.now.index, device=self.device)
        x0 = self.x0(self.now, velocity, tokens)
        self.velocities = _remember(self.velocities, velocity, tokens)
        self.denoised = _remember(self.denoised, x0, tokens)
        self.sigmas = _remember(self.sigmas, sigma, tokens)
        self.rendered_at = step if tokens is None else scatter_rows(self.rendered_at, tokens, step)

    def small_velocity(self, at: StepState | None = None) -> Tensor:
        """The small model's guided velocity `(batch, tokens, patch * patch * channels)`, by default now.

        The first call for a step costs a forward of the small model, which the report counts.
        """
        state = at or self.now
        if state.index not in self._small:
            self._small[state.index] = self.small_model(state.latents, state.timestep)
        return self._small[state.index]

    def small_conditional(self, at: StepState | None = None) -> Tensor:
        """The small model's velocity for the prompt without guidance, at half the cost of `small_velocity`."""
        state = at or self.now
        if state.index not in self._small_conditional:
            self._small_conditional[state.index] = self.small_model.conditional(state.latents, state.timestep)
        return self._small_conditional[state.index]

    def correction(self) -> Tensor:
        """Large minus small velocity where the large model last rendered each token, `(batch, tokens, …)`.

        The first call after a dense step costs one forward of the small model. Hybrid steps at which the small model
        ran renew the rows of their tokens without a further forward.
        """
        if self._correction is None:
            state, velocity = self.dense[-1]
            self._correction = velocity - self.small_velocity(state)
        return self._correction

    def x0(self, at: StepState, velocity: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The x0 estimate of a velocity, as float32 rows of the latent `(batch, tokens or k, …)`.

        Args:
            at: the state that the velocity belongs to.
            velocity: `(batch, tokens or k, patch * patch * channels)`.
            tokens: indices `(batch, k)` that it belongs to; None for all.
        """
        rows = patchify(at.latents, at.latents.shape[-1] // self.grid[1]).float()
        return (rows if tokens is None else gather_rows(rows, tokens)) - at.sigma * velocity.float()


def _remember(history: list[Tensor], fresh: Tensor, tokens: Tensor | None) -> list[Tensor]:
    """The history with fresh rows in front, latest first.

    Args:
        history: for each past render the rows of all tokens.
        fresh: rows of all tokens, or of those at `tokens`, whose older rows move back by one.
        tokens: indices `(batch, k)`; None for all.
    """
    if tokens is None:
        return [fresh, *history[: DEPTH - 1]]
    moved = [fresh, *(gather_rows(each, tokens) for each in history[:-1])]
    return [scatter_rows(each, tokens, rows) for each, rows in zip(history, moved, strict=True)]
