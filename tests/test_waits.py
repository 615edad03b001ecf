"""A step does not wait for the accelerator, unless the plan decides by the picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridstitch import HybridStitchPipeline, fills, masks, recipes
from hybridstitch.masks import Box
from hybridstitch.plans import ExplicitShares
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.report import StepTimer
from hybridstitch.sampler import Step
from hybridstitch.testing.toys import TinyPair
from tests.support.waits import waits

STEPS = 12
SHARES = ExplicitShares((1.0, 1.0, 1.0, 0.4, 0.4, 0.0, 0.4))


def waits_of(pipe: HybridStitchPipeline, recipe: Recipe, **call: Any) -> tuple[list[int], int]:
    """The waits of each step of a call, and those before the first step and after the last."""
    with waits() as found:
        seen = [0]

        def on_step(pictures: range, step: Step) -> None:
            seen.append(len(found))

        source = torch.Generator().manual_seed(0)
        call = {"prompt": "one", "num_inference_steps": STEPS, "output_type": "latent"} | call
        pipe(recipe=recipe, generator=source, on_step=on_step, **call)
    steps = [after - before for before, after in pairwise(seen[1:])]
    return steps, seen[1] + len(found) - seen[-1]


def everything() -> dict[str, Recipe]:
    """Every built-in recipe, and every mask and fill in a plan that has all kinds of steps."""
    plus = recipes()["hybridstitch"]
    found = dict(recipes())
    found |= {f"mask {each.type}": replace(plus, plan=SHARES, mask=each()) for each in masks.BUILT_IN}
    found |= {f"fill {each.type}": replace(plus, plan=SHARES, fill=each()) for each in fills.BUILT_IN}
    return found


@pytest.mark.parametrize("name", [name for name, each in everything().items() if not each.plan.adaptive])
def test_steps_of_plans_that_do_not_look_at_the_picture_do_not_wait(tiny_pipe: HybridStitchPipeline, name: str):
    steps, around = waits_of(tiny_pipe, everything()[name])
    assert len(steps) >= 4
    assert steps == [0] * len(steps)
    assert around <= 12  # text encoders, the noise levels, the check of the latents, the report's counts


def test_more_pictures_do_not_wait_more_often(tiny_pipe: HybridStitchPipeline):
    one = waits_of(tiny_pipe, recipes()["hybridstitch"])
    assert waits_of(tiny_pipe, recipes()["hybridstitch"], num_images_per_prompt=3)[0] == one[0]


@pytest.mark.parametrize("name", ["srdiffusion", "mdd"])
def test_plans_that_look_at_the_picture_wait_once_a_step(tiny_pipe: HybridStitchPipeline, name: str):
    steps, _ = waits_of(tiny_pipe, recipes()[name])
    assert max(steps) == 1


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        int,
        Tensor.item,
        Tensor.tolist,
        Tensor.cpu,
        Tensor.numpy,
        Tensor.nonzero,
        math.isnan,
        lambda each: each[each > 0],
        lambda each: torch.equal(each, each),
        lambda each: each.masked_select(each > 0),
    ],
)
def test_a_wait_is_counted(read: Callable[[Tensor], object]):
    value = torch.ones(())
    with waits() as found:
        torch.ones(3) + torch.arange(3)
        assert found == []
        read(value)
    assert len(found) == 1


def test_a_box_is_built_where_the_latents_are():
    with TinyPair().trajectory((6, 4), [0, 1]) as trajectory:
        trajectory.now = replace(trajectory.now, latents=trajectory.now.latents.to("meta"))
        assert Box().scores(trajectory).device.type == "meta"


def test_times_of_steps_add_up():
    timer = StepTimer(torch.device("cpu"))
    assert timer.durations() == []
    timer.lap()
    sum(range(10**6))
    timer.lap()
    first, second = timer.durations()
    assert 0 < first < second
