"""What one generation has computed so far: the state that plans, masks and fills may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from hybridstitch.model.mmdit import gather_rows, patchify, scatter_rows

DEPTH = 3
"""How many renders of a token by the large model are kept: enough for a second-order extrapolation."""


@dataclass(frozen=True)
class StepState:
    """The latents before one step.

    index: the step, from 0. timestep: as the scheduler has it, a scalar tensor. sigma: the share of noise, 1 to 0.
    latents: `(batch, channels, height, width)`.
    """

    index: int
    timestep: Tensor
    sigma: float
    latents: Tensor


class SmallModel(Protocol):
    """The small model, for one generation; see `GuidedModel`."""

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Guided velocity of all image tokens, or of some."""

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Velocity of all image tokens for the prompt alone."""


@dataclass
class Trajectory:
    """One generation, from noise to now. The loop makes one for each generation and drops it at the end.

    grid: rows and columns of image tokens; a score or mask is row-major over it.
    steps: how many steps the schedule has.
    now: the point that the current step starts from.
    tokens: the tokens that the large model renders at this step, `(batch, k)` indices; None if it is none of them.
    dense: the points at which the large model rendered every token, with its velocity
        `(batch, tokens, patch * patch * channels)` there; the last two, latest last.
    velocities: what the large model said about each token, `(batch, tokens, …)`, its last word first; as many as
        there were dense steps, at most three. Every token has words of its own time:
    sigmas: the noise levels `(batch, tokens)` at which it said them.
    denoised: the picture (x0) that each of them led to, in the shape of `velocities`, float32.
    rendered_at: the step `(batch, tokens)` of its last word; unset before the first.
    notes: free for strategies to keep what they need until the end of this generation, each under itself as the key.
    """

    grid: tuple[int, int]
    steps: int
    small_model: SmallModel
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
        """Where the latents are: scores belong there too."""
        return self.now.latents.device

    @property
    def age(self) -> Tensor:
        """Steps since the large model last rendered each token, `(batch, tokens)`; 0 is now."""
        return self.now.index - self.rendered_at

    def move_to(self, point: StepState) -> None:
        """Start the next step."""
        self.now = point
        self.tokens = None
        kept = {seen.index for seen, _ in self.dense}
        for known in (self._small, self._small_conditional):
            for index in known.keys() - kept:
                del known[index]

    def record(self, velocity: Tensor, tokens: Tensor | None = None) -> None:
        """Remember what the large model said just now, about all tokens or about those at `tokens` `(batch, k)`."""
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
        """The small model's velocity `(batch, tokens, patch * patch * channels)` at a point, by default now.

        Costs a forward of the small model the first time it is asked for at a point; the report counts it.
        """
        point = at or self.now
        if point.index not in self._small:
            self._small[point.index] = self.small_model(point.latents, point.timestep)
        return self._small[point.index]

    def small_conditional(self, at: StepState | None = None) -> Tensor:
        """The same without guidance, for the prompt alone, at half the cost."""
        point = at or self.now
        if point.index not in self._small_conditional:
            self._small_conditional[point.index] = self.small_model.conditional(point.latents, point.timestep)
        return self._small_conditional[point.index]

    def correction(self) -> Tensor:
        """Large minus small where the large model last rendered each token, `(batch, tokens, …)`.

        After a dense step it costs one forward of the small model; renders of a share of the tokens renew their
        part for nothing, wherever the small model ran at the same step.
        """
        if self._correction is None:
            point, velocity = self.dense[-1]
            self._correction = velocity - self.small_velocity(point)
        return self._correction

    def x0(self, at: StepState, velocity: Tensor, tokens: Tensor | None = None) -> Tensor:
        """The picture that a velocity at a point leads to (x0), as rows `(batch, tokens, …)` of the latent, float32.

        tokens: whose velocity it is, `(batch, k)` indices; None for all.
        """
        rows = patchify(at.latents, at.latents.shape[-1] // self.grid[1]).float()
        return (rows if tokens is None else gather_rows(rows, tokens)) - at.sigma * velocity.float()


def _remember(history: list[Tensor], fresh: Tensor, tokens: Tensor | None) -> list[Tensor]:
    """The history, newest first, with fresh rows for all tokens or for those at `tokens`, whose older rows move on."""
    if tokens is None:
        return [fresh, *history[: DEPTH - 1]]
    moved = [fresh, *(gather_rows(each, tokens) for each in history[:-1])]
    return [scatter_rows(each, tokens, rows) for each, rows in zip(history, moved, strict=True)]
