"""The loop and the named recipes, on two models whose answers are written down: four tokens, eight steps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from hybridstitch import Recipe, recipes
from hybridstitch.masks import MaskStrategy
from hybridstitch.plans import ExplicitShares
from hybridstitch.sampler import Step, sample
from hybridstitch.trajectory import Trajectory

STEPS = 8
LARGE = [[index * number for number in (1.0, 2.0, 3.0, 4.0)] for index in range(1, STEPS + 1)]
"""The large model's answer for every token at every step; it grows, in one direction."""
SMALL = [[2.0**index * (-1.0) ** (token * (index >= 5)) for token in range(4)] for index in range(STEPS)]
"""The small one's: its length doubles, and at step 5 its direction turns."""


class Written:
    """A model that answers what is written, in the first of two channels."""

    patch_size = 1
    guidance_scale = 1.0

    def __init__(self, answers: list[list[float]], timesteps: Tensor):
        self.answers, self.timesteps = answers, timesteps.tolist()

    def grid(self, latents: Tensor) -> tuple[int, int]:
        return latents.shape[-2], latents.shape[-1]

    def prepare(self, latents: Tensor, timestep: Tensor) -> None:
        pass

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        answer = torch.tensor(self.answers[self.timesteps.index(float(timestep))])
        rows = torch.stack([answer, torch.zeros(4)], dim=-1)
        return rows[None] if tokens is None else rows[tokens]

    conditional = __call__


def run(recipe: Recipe) -> tuple[list[list[float]], list[list[int] | None]]:
    """Velocity of every token at every step, and the tokens that were chosen."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(STEPS, sigmas=[1 - index / STEPS for index in range(STEPS)])
    models = [Written(answers, scheduler.timesteps.clone()) for answers in (LARGE, SMALL)]
    latents = [torch.zeros(1, 2, 2, 2)]
    chosen: list[list[int] | None] = []

    def on_step(step: Step) -> None:
        latents.append(step.latents)
        chosen.append(None if step.tokens is None else step.tokens[0].tolist())

    sample(latents[0], scheduler, *models, recipe, on_step)
    return [((before - after) * STEPS)[0, 0].flatten().tolist() for before, after in pairwise(latents)], chosen


def times(factor: float, values: list[float]) -> list[float]:
    return [factor * value for value in values]


EXPECTED = {
    "large": LARGE,
    "small": SMALL,
    # 40 % of the steps, to the nearest.
    "t-stitch": SMALL[:3] + LARGE[3:],
    # 29 %.
    "two-stage": LARGE[:2] + SMALL[2:],
    # The answer changes by 1/1, 1/2, 1/3, 1/4 of itself; times 8 steps, the last is the first below 2.5.
    "srdiffusion": LARGE[:5] + SMALL[5:],
    # Two steps, those with the highest disagreement.
    "track": LARGE[:2] + SMALL[2:],
    # A fifth of the steps; then the last answer, longer as the small model's is, until that one turns.
    "mdd": [LARGE[0], *(times(2**n, LARGE[1]) for n in range(4)), *(times(2**n, LARGE[5]) for n in range(3))],
    "reuse": [LARGE[index - index % 2] for index in range(STEPS)],
    # Half of the change from one answer to the next, over half of that time; the first has none before it.
    "extrapolate": [times(factor, LARGE[0]) for factor in (1, 1, 3, 3.5, 5, 5.5, 7, 7.5)],
    # Of eight steps 0, 1, 3 and 5 are dense.
    "front": [times(factor, LARGE[0]) for factor in (1, 2, 2.5, 4, 4.5, 6, 6.5, 7)],
    # The first step; one more to see which velocities change most, those of token 3; one hybrid step; the small model.
    "hybridstitch": [*LARGE[:2], [*SMALL[2][:3], LARGE[2][3]], *SMALL[3:]],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_named_recipes_by_hand(name):
    velocities, _ = run(recipes()[name])
    for index, (found, expected) in enumerate(zip(velocities, EXPECTED[name], strict=True)):
        assert found == pytest.approx(expected, rel=1e-4), index


def test_ras_by_hand():
    """Spreads begin at 0.5, 1, 1.5 and 2 and are those of the last answer; a waiting token's shrinks by 10 % a step."""
    velocities, chosen = run(recipes()["ras"])
    assert chosen == [None, [0], [1], [0], [2], [3], [0], [1]]
    last = list(LARGE[0])
    for index in range(1, STEPS):
        token = chosen[index][0]
        last[token] = LARGE[index][token]
        assert velocities[index] == pytest.approx(last, rel=1e-4)


def test_every_named_recipe_is_worked_out():
    assert {*EXPECTED, "ras"} == set(recipes())


@dataclass(frozen=True)
class Watched(MaskStrategy):
    """Notes at which steps it is asked."""

    type = "watched"
    asked: ClassVar[list[int]] = []
    refresh: int = 0

    def scores(self, trajectory: Trajectory) -> Tensor:
        self.asked.append(trajectory.now.index)
        return torch.zeros(1, 4)


@pytest.mark.parametrize(("refresh", "asked"), [(0, [1, 5]), (1, [1, 2, 3, 5, 6, 7]), (2, [1, 3, 5, 7]), (3, [1, 5])])
def test_a_mask_is_asked_after_a_dense_step_and_as_often_as_it_wants(refresh, asked):
    Watched.asked.clear()
    run(Recipe(ExplicitShares((1.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5)), Watched(refresh)))
    assert Watched.asked == asked
