"""The weights of fill `fitted`, by least squares along a run of the real loop."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridstitch.errors import Problem
from hybridstitch.fills import Fill
from hybridstitch.fills.fitted import PLAIN, combined, features
from hybridstitch.model.mmdit import patchify
from hybridstitch.strategy import Parameter
from hybridstitch.trajectory import Trajectory

RIDGE = 1e-4
"""Penalty of weights other than those of fill `last`, relative to the energy of each feature."""
ROUNDS = 4
"""Regressions that balance the errors of the pictures, from the states produced and from the large model's own."""


class Fitting(Fill):
    """Fits the weights of each gap between large steps when the loop comes to it, and predicts with them.

    The fit sees two states of every picture: the one that the steps before really produced, so that it corrects the
    error that has accumulated, and the one on the large model's own trajectory, which keeps it from serving a few
    pictures alone. Both lead to the large model's state at the end of the gap. Each picture counts by the root of its
    squared error, so that the few that are furthest off do not decide alone. One run fits a whole schedule.

    Args:
        states, velocities, sigmas: see `Trajectories`.
        shares: share of the tokens that the large model renders at each step.
        small: whether the small model's change takes part, see `Fitted`. Each step then is fitted alone, to the state
            that was really produced, because the change differs from step to step.
    """

    type = "fitting"
    dense_steps = 1

    def __init__(
        self, states: Tensor, velocities: Tensor, sigmas: list[float], shares: tuple[float, ...], small: bool = False
    ):
        self._states, self._velocities, self._sigmas = states, velocities, sigmas
        self._large = [step for step, share in enumerate(shares) if share > 0]
        self._small = small
        self._found: dict[int, list[float]] = {}

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        """None, because no request describes it."""
        return {}

    def problems(self, field: str) -> list[Problem]:
        return []

    def velocity(self, trajectory: Trajectory) -> Tensor:
        found = features(trajectory, self._small)
        step = trajectory.now.index
        if step not in self._found:
            steps = len(self._sigmas) - 1
            end = step + 1 if self._small else min((each for each in self._large if each > step), default=steps)
            weights = self._fit(trajectory, found, end)
            self._found |= dict.fromkeys(range(step, end), weights)
        return combined(self._found[step], found).to(trajectory.velocities[0].dtype)

    @property
    def weights(self) -> list[list[float]]:
        """The weights of every step. A dense step has those of the gap behind it, or of fill `last`."""
        plain = [*PLAIN, *([0.0] if self._small else [])]
        steps = len(self._sigmas) - 1
        return [self._found.get(step, self._found.get(step + 1, plain)) for step in range(steps)]

    def _fit(self, trajectory: Trajectory, found: list[Tensor], end: int) -> list[float]:
        """The weights from the current step to the step `end`."""
        step, latents = trajectory.now.index, trajectory.now.latents
        patch = latents.shape[-1] // trajectory.grid[1]
        length = self._sigmas[end] - self._sigmas[step]

        def rows(each: Tensor) -> Tensor:
            return patchify(each.to(latents.device).float(), patch)

        goal = rows(self._states[end])
        produced = products([*found, (goal - rows(latents)) / length], trajectory.tokens)
        if self._small:
            return balanced([*produced])
        start, before = trajectory.dense[-1][0].index, trajectory.dense[0][0].index
        own = [rows(each) for each in (self._states[start], self._velocities[start], self._velocities[before])]
        ahead = (goal - rows(self._states[step])) / length
        return balanced([*produced, *products([*own, ahead], trajectory.tokens)])


def products(rows: list[Tensor], rendered: Tensor | None = None) -> Tensor:
    """The inner products of the features and, last, the target, `(pictures, rows, rows)` float64 on the CPU.

    Args:
        rows: each `(pictures, tokens, channels)`.
        rendered: indices `(pictures, k)` of tokens to leave out, because the large model renders them.
    """
    stacked = torch.stack(rows, dim=1).double()
    if rendered is not None:
        where = torch.arange(len(rendered), device=rendered.device).unsqueeze(1)
        stacked.transpose(1, 2)[where, rendered] = 0.0
    stacked = stacked.flatten(2)
    return (stacked @ stacked.mT).cpu()


def balanced(several: list[Tensor]) -> list[float]:
    """The weights with the smallest sum of the roots of the squared errors, each that of one set of rows.

    By the plain sum of squares the sets that are furthest off decide alone: some pictures, and with few large steps the
    states that were really produced.

    Args:
        several: `products` of each set.
    """
    weights = solved(torch.stack(several).sum(0))
    for _ in range(ROUNDS):
        left = torch.tensor([*(-weight for weight in weights), 1.0], dtype=torch.float64)
        errors = [(max(float(left @ each @ left), 1e-9 * float(each[-1, -1])) + 1e-30) ** 0.5 for each in several]
        weights = solved(sum((each / error for each, error in zip(several, errors, strict=True)), torch.tensor(0.0)))
    return weights


def solved(inner_products: Tensor) -> list[float]:
    """The weights of the features whose sum is nearest to the target, by ridge regression on `products`."""
    start = torch.zeros(len(inner_products) - 1, dtype=torch.float64)
    start[: len(PLAIN)] = torch.tensor(PLAIN, dtype=torch.float64)[: len(start)]
    inner, outer = inner_products[:-1, :-1], inner_products[:-1, -1]
    scale = inner.diagonal().clamp(min=1e-12 * float(inner_products[-1, -1]) + 1e-30)
    found = start + torch.linalg.solve(inner + RIDGE * scale.diag(), outer - inner @ start)
    return [float(f"{weight:.6g}") for weight in found]
