"""What each recipe costs: its forwards, counted on the real loop, times their measured seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from hybridstitch.bench.contenders import Contender
from hybridstitch.bench.scale_cases import CACHED, DENSE, EAGER, HALF, SHARES, SUBSET, Case, Setting
from hybridstitch.bench.scale_measure import GUIDANCE, Timing
from hybridstitch.bench.scale_models import LATENT_PIXELS, shape_of
from hybridstitch.sampler import Step, sample

LAUNCH_BOUND = 0.8
"""A forward is bound by launches if starting its operations takes at least this share of its time."""


@dataclass(frozen=True)
class Costs:
    """The measured costs of the forwards at one setting.

    Attributes:
        timings: by case.
        large, small: names of the models.
        setting: the setting.
        operations: for each model, operations of a dense and of a subset forward by whether it is on a subset.
        launch: seconds of starting one operation.
    """

    timings: Mapping[Case, Timing]
    large: str
    small: str
    setting: Setting
    operations: Mapping[str, Mapping[bool, int]]
    launch: float

    @property
    def complete(self) -> bool:
        """Whether a prediction has all forwards that it needs."""
        kinds = [Case(self.large, kind, self.setting) for kind in (DENSE, CACHED)]
        kinds += [Case(self.large, SUBSET, self.setting, share) for share in SHARES]
        return all(case in self.timings for case in (*kinds, Case(self.small, DENSE, self.setting)))

    def is_launch_bound(self, case: Case) -> bool:
        """Whether starting the operations takes most of the time of a forward."""
        started = self.operations[case.model][case.kind == SUBSET] * self.launch
        return self.setting.mode == EAGER and started >= LAUNCH_BOUND * self.seconds(case)

    def seconds(self, case: Case) -> float:
        """Seconds of a forward: measured, between two measured shares, or by FLOPs from another kind."""
        if case in self.timings:
            return self.timings[case].full
        dense = Case(case.model, DENSE, case.setting)
        if case.kind == SUBSET and case.model == self.large:
            known = [self.timings[Case(case.model, SUBSET, case.setting, share)].full for share in SHARES]
            known.append(self.timings[Case(case.model, CACHED, case.setting)].full)
            if case.share < SHARES[0]:  # on the line through the two smallest
                slope = (known[1] - known[0]) / (SHARES[1] - SHARES[0])
                return max(known[0] + slope * (case.share - SHARES[0]), 0.0)
            return float(np.interp(case.share, [*SHARES, 1.0], known))
        return self.timings[dense].full * case.flops() / dense.flops()


@dataclass(frozen=True)
class Prediction:
    """The denoising of one recipe.

    Attributes:
        contender: name of the recipe, as given.
        cost: FLOPs relative to the large model at all steps: least and most, which differ if the plan looks at the
            picture.
        seconds: likewise, without scheduler, masks, text encoders and decoder.
        forwards: number of forwards of the least cost, by label.
        launch_bound: labels of its forwards that are bound by launches.
    """

    contender: str
    cost: tuple[float, float]
    seconds: tuple[float, float]
    forwards: Mapping[str, int]
    launch_bound: tuple[str, ...]


def predict(contender: Contender, costs: Costs, steps: int) -> Prediction:
    """Predict the denoising time of a contender.

    A plan that looks at the picture is counted twice: on pictures that settle at once, and on ones that never do.

    Args:
        contender: its recipe and steps.
        costs: of the forwards.
        steps: of the large model that it is compared with.
    """
    plain = steps * Case(costs.large, DENSE, costs.setting).flops()
    counted = [_forwards(contender, costs, settles) for settles in (True, False)]
    flops = [sum(number * case.flops() for case, number in each.items()) / plain for each in counted]
    seconds = [sum(number * costs.seconds(case) for case, number in each.items()) for each in counted]
    least = counted[int(np.argmin(flops))]
    every = [case for each in counted for case in each]
    return Prediction(
        contender.name,
        (min(flops), max(flops)),
        (min(seconds), max(seconds)),
        {f"{case.model}, {case.label}": number for case, number in least.items()},
        tuple(dict.fromkeys(f"{case.model}, {case.label}" for case in every if costs.is_launch_bound(case))),
    )


def _forwards(contender: Contender, costs: Costs, settles: bool) -> Counter[Case]:
    """Run the loop of a recipe with stand-ins for both models, and count the forwards that they are asked to run."""
    recipe, counted = contender.recipe, Counter[Case]()
    side = costs.setting.pixels // LATENT_PIXELS
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(1, shape_of(costs.large).in_channels, side, side, generator=noise)
    large = StandIn(costs.large, costs.setting, recipe.plan.masked, counted, settles)
    small = StandIn(costs.small, costs.setting, recipe.fill.cached, counted, settles)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = contender.sigmas or recipe.schedule(contender.steps)
    if isinstance(schedule, int):
        scheduler.set_timesteps(schedule)
    else:
        scheduler.set_timesteps(len(schedule), sigmas=list(schedule))
    with torch.no_grad():
        sample(latents, scheduler, large, small, recipe, _ignore)  # type: ignore[arg-type]
    return counted


def _ignore(_step: Step) -> None:
    return None


class StandIn:
    """Answers as a model in the loop, at once, and counts the forwards.

    Args:
        name: of the model.
        setting: of its forwards.
        cached: whether it keeps keys and values.
        counted: where it counts.
        settles: whether its velocity is the same at every step, or a random one.
    """

    patch_size = 2
    guidance_scale = GUIDANCE

    def __init__(self, name: str, setting: Setting, cached: bool, counted: Counter[Case], settles: bool):
        self._name, self._setting, self._cached = name, setting, cached
        self._counted, self._settles = counted, settles
        self._noise = torch.Generator().manual_seed(1)
        self._velocity: Tensor | None = None

    def grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        return latents.shape[-2] // self.patch_size, latents.shape[-1] // self.patch_size

    def prepare(self, latents: Tensor, timestep: Tensor) -> None:
        """Nothing: it has no device."""

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Velocity of all tokens, or of those at `tokens`."""
        if tokens is None:
            return self._answer(latents, CACHED if self._cached else DENSE)
        rows, columns = self.grid(latents)
        share = tokens.shape[1] / (rows * columns)
        nearest = min(SHARES, key=lambda known: abs(known - share))
        share = nearest if abs(nearest - share) < 1 / (rows * columns) else share
        return self._answer(latents, SUBSET, share)[:, : tokens.shape[1]]

    def conditional(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Velocity of all tokens, as half of a guided forward."""
        return self._answer(latents, HALF)

    def _answer(self, latents: Tensor, kind: str, share: float = 1.0) -> Tensor:
        self._counted[Case(self._name, kind, self._setting, share)] += 1
        rows, columns = self.grid(latents)
        if self._velocity is None or not self._settles:
            width = latents.shape[1] * self.patch_size**2
            self._velocity = torch.randn(1, rows * columns, width, generator=self._noise)
        return self._velocity
