"""A region that the large model renders throughout, with every named recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hybridstitch import HybridStitchPipeline, recipes
from hybridstitch.errors import InvalidInput

REGION = (0, 8, 16, 16)
STEPS = 6


def draw(pipe: HybridStitchPipeline, recipe: str, region: tuple[int, int, int, int] | None, **options: object):
    generator = torch.Generator().manual_seed(3)
    return pipe("x", recipe=recipe, region=region, generator=generator, num_inference_steps=STEPS, **options)


@pytest.mark.parametrize("recipe", sorted(set(recipes()) - {"large"}))
def test_its_tokens_are_rendered_at_every_step(tiny_pipe: HybridStitchPipeline, recipe: str) -> None:
    with_it, without = (draw(tiny_pipe, recipe, region).report for region in (REGION, None))
    cell = tiny_pipe.size_limits.multiple_of
    inside = np.zeros(with_it.large_steps.shape[1:], bool)
    inside[8 // cell : 16 // cell, 0 : 16 // cell] = True
    steps = sum(stage.steps for stage in with_it.stages)
    assert (with_it.large_steps[0][inside] == steps).all()
    assert with_it.recipe == without.recipe
    assert with_it.large_token_share >= without.large_token_share
    assert sum(stage.large_tokens for stage in with_it.stages) == with_it.large_steps.sum()


def test_the_whole_picture_is_the_large_models(tiny_pipe: HybridStitchPipeline) -> None:
    width, height = tiny_pipe.size_limits.default
    whole = draw(tiny_pipe, "hybridstitch", (0, 0, width, height), output_type="pt").images
    large = draw(tiny_pipe, "large", None, output_type="pt").images
    torch.testing.assert_close(whole, large, rtol=0, atol=1e-3)


def test_outside_the_recipe_stays_what_it_was(tiny_pipe: HybridStitchPipeline) -> None:
    ours, theirs = (draw(tiny_pipe, "hybridstitch", region).report for region in (REGION, None))
    tokens = ours.large_steps.size
    inside = 2 * 4
    hybrid = next(stage for stage in ours.stages if stage.name == "hybrid")
    expected = inside + round(0.3 * (tokens - inside))
    assert ours.share_by_step.count(expected / tokens) == next(s for s in theirs.stages if s.name == "hybrid").steps
    assert hybrid.steps == sum(stage.steps for stage in ours.stages) - ours.share_by_step.count(1.0)


@pytest.mark.parametrize("region", [(0, 0, 0, 8), (8, 0, 4, 8), (0, 0, 4096, 8), (-8, 0, 8, 8)])
def test_a_region_that_is_none_is_refused(tiny_pipe: HybridStitchPipeline, region: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidInput, match="region"):
        draw(tiny_pipe, "hybridstitch", region)
