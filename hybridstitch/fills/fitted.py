from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from hybridstitch.errors import Problem
from hybridstitch.fills.base import Fill
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory

FEATURES = ("latents", "last velocity", "velocity before")
"""What the weights of each step apply to, in order. With `small` there is one more: the small model's change."""
PLAIN = (0.0, 1.0, 0.0)
"""The weights of fill `last`: the large model's last velocity."""


@dataclass(frozen=True)
class Fitted(Fill):
    """A weighted sum of each token's latents and last two large velocities, with weights that `tune` fits.

    Guidance makes long steps overshoot. The weights are those of a least-squares fit to the large model's own
    trajectories on a few calibration prompts, so they learn to damp. Costs no forward without `small`. While the large
    model has rendered a token once, its only velocity counts for both. The default weights are those of fill `last`.

    Args:
        guidance: guidance scales that weights were fitted at, rising, default (4.5,). Weights of a scale between two
            of them are interpolated; outside, the nearest scale's count.
        weights: for each guidance scale and each step of the fitted schedule, the weights of the latents when the
            token was last rendered, of its last velocity, of the one before, and with `small` of the small model's
            change. Default (0, 1, 0), for every step. At another number of steps they are resampled by position.
        small: whether the small model's change since the last dense step takes part, default false. It costs the
            small model at every step that is not dense, and one forward more after each run of dense steps.
    """

    type = "fitted"
    dense_steps = 1

    guidance: Annotated[tuple[float, ...], Range(0, 100)] = (4.5,)
    weights: tuple[float, ...] = PLAIN
    small: bool = False

    def problems(self, field: str) -> list[Problem]:
        found = super().problems(field)
        if not found and list(self.guidance) != sorted(set(self.guidance)):
            found.append(Problem(f"{field}.guidance", "rising numbers, each once", self.guidance))
        if not found and len(self.weights) % (len(self.guidance) * self._features):
            expected = f"{self._features} numbers for each step, for each of {len(self.guidance)} guidance scales"
            found.append(Problem(f"{field}.weights", expected, f"{len(self.weights)} numbers"))
        return found

    @property
    def steps(self) -> int:
        """The number of steps of the fitted schedule."""
        return len(self.weights) // (len(self.guidance) * self._features)

    @property
    def _features(self) -> int:
        return len(FEATURES) + self.small

    def velocity(self, trajectory: Trajectory) -> Tensor:
        weights = self.weights_at(trajectory.now.index, trajectory.steps, trajectory.guidance_scale)
        return combined(weights, features(trajectory, self.small)).to(trajectory.velocities[0].dtype)

    def weights_at(self, index: int, steps: int, guidance_scale: float) -> list[float]:
        """The weights of the features at a step of a schedule.

        Args:
            index: the step, from 0.
            steps: steps of the schedule.
            guidance_scale: of the generation.
        """
        step = (2 * index + 1) * self.steps // (2 * steps)
        above = sum(scale < guidance_scale for scale in self.guidance)
        if above in (0, len(self.guidance)):
            return self._row(min(above, len(self.guidance) - 1), step)
        low, high = self.guidance[above - 1], self.guidance[above]
        part = (guidance_scale - low) / (high - low)
        rows = zip(self._row(above - 1, step), self._row(above, step), strict=True)
        return [before + part * (after - before) for before, after in rows]

    def _row(self, scale: int, step: int) -> list[float]:
        first = (scale * self.steps + step) * self._features
        return list(self.weights[first : first + self._features])

    def warnings(self, steps: int, guidance_scale: float) -> list[str]:
        if self.weights == PLAIN:
            return []
        found, low, high = [], self.guidance[0], self.guidance[-1]
        if self.steps not in (1, steps):
            found.append(f"fill fitted: weights fitted at {self.steps} steps, resampled to {steps}; fidelity is lower")
        if not low <= guidance_scale <= high:
            fitted = f"scale {low:g}" if low == high else f"scales {low:g} to {high:g}"
            used = f"those of {min(max(guidance_scale, low), high):g} are used for {guidance_scale:g}"
            found.append(f"fill fitted: weights fitted at guidance {fitted}, {used}; fidelity is lower")
        return found


def features(trajectory: Trajectory, small: bool = False) -> list[Tensor]:
    """The features of every token, each `(batch, tokens, patch * patch * channels)`, float32."""
    last, before = trajectory.velocities[0].float(), trajectory.velocities[: len(FEATURES) - 1][-1].float()
    # A token's latents when it was rendered follow from what is kept of that step.
    found = [trajectory.denoised[0] + trajectory.sigmas[0].unsqueeze(-1) * last, last, before]
    if small:
        change = trajectory.small_velocity() - trajectory.small_velocity(trajectory.dense[-1][0])
        found.append(change.float())
    return found


def combined(weights: list[float], found: list[Tensor]) -> Tensor:
    """The weighted sum of features."""
    return torch.stack([weight * each for weight, each in zip(weights, found, strict=True)]).sum(0)
