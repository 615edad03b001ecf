"""The pipeline against diffusers' own, in float32: tiny pairs of every layout, and the embedded one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from hybridstitch import HybridStitchPipeline, InvalidInput, Recipe, fills, masks, plans, recipes
from hybridstitch.base.paths import EMBEDDED_PAIR
from hybridstitch.masks import All, Box
from hybridstitch.pipeline import Output
from hybridstitch.plans import Staged
from hybridstitch.testing.toys import LAYOUTS
from tests.support.tiny import load_pipeline, make_pair_folder

CALL = {"num_inference_steps": 5, "guidance_scale": 3.5, "negative_prompt": "blue"}
STAGES = Staged(large=0.4, hybrid=0.4, share=0.3)
STITCHED = Recipe(STAGES)
EVERYTHING = [
    *recipes().values(),
    *(Recipe(plan(), name=plan.type) for plan in plans.BUILT_IN),
    *(Recipe(STAGES, mask(), name=mask.type) for mask in masks.BUILT_IN),
    *(Recipe(STAGES, fill=fill(), name=fill.type) for fill in fills.BUILT_IN),
]
"""The named recipes, and one for every built-in strategy."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", params=[*LAYOUTS, "emoji"])
def folder(request, tmp_path_factory) -> Path:
    """A packed pair, whose large model has the layout, or the embedded pair."""
    if request.param == "emoji":
        return EMBEDDED_PAIR
    return make_pair_folder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def pipe(folder) -> HybridStitchPipeline:
    return load_pipeline(folder)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Callable[[str], StableDiffusion3Pipeline]:
    """Return diffusers' own pipeline with one of the two transformers, each loaded once."""
    return cache(partial(load_plain, folder))


def load_plain(folder: Path, transformer: str) -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder,
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=SD3Transformer2DModel.from_pretrained(folder, subfolder=transformer, dtype=torch.float32),
        dtype=torch.float32,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("guidance_scale", [3.5, 1.0])
@pytest.mark.parametrize(("recipe", "transformer"), [("large", "transformer"), ("small", "transformer_small")])
@pytest.mark.parametrize("size", [(1.0, 1.0), (0.5, 1.0)])
def test_one_model_alone_is_diffusers_own_pipeline_bit_by_bit(plain, pipe, recipe, transformer, size, guidance_scale):
    width, height = (round(share * side) for share, side in zip(size, pipe.size_limits.default, strict=True))
    call = CALL | {"width": width, "height": height, "guidance_scale": guidance_scale, "output_type": "pt"}
    expected = plain(transformer)("a red apple", max_sequence_length=0, generator=seeded(), **call).images
    ours = pipe("a red apple", generator=seeded(), recipe=recipe, **call)
    assert torch.equal(ours.images, expected)
    assert ours.report.large_token_share == (recipe == "large")
    assert ours.report.small_token_share == (recipe == "small")


def test_the_whole_picture_through_the_subset_path_is_the_large_models(pipe):
    everything = Recipe(Staged(large=0.2, hybrid=0.8, share=0.5), All())
    large = pipe("a red apple", generator=seeded(), recipe="large", output_type="latent", **CALL)
    subset = pipe("a red apple", generator=seeded(), recipe=everything, output_type="latent", **CALL)
    assert subset.report.stages[-1].name == "hybrid"
    assert torch.equal(subset.images, large.images)


def test_no_tokens_through_the_hybrid_plan_is_the_small_models_picture(pipe):
    nothing = Recipe(Staged(large=0.0, hybrid=1.0, share=0.0))
    small = pipe("a red apple", generator=seeded(), recipe="small", output_type="latent", **CALL)
    out = pipe("a red apple", generator=seeded(), recipe=nothing, output_type="latent", **CALL)
    assert out.report.large_token_share == 0
    assert torch.equal(out.images, small.images)


@pytest.fixture(scope="module")
def half(tiny) -> HybridStitchPipeline:
    return load_pipeline(tiny, torch_dtype=torch.bfloat16)


@pytest.mark.parametrize("recipe", EVERYTHING, ids=lambda recipe: recipe.name)
def test_everything_works_in_bfloat16(half, recipe):
    call = CALL | {"num_inference_steps": 12, "output_type": "latent"}
    latents = half("a red apple", generator=seeded(), recipe=recipe, **call).images
    assert latents.dtype == torch.bfloat16
    assert torch.isfinite(latents).all()


def test_same_request_twice_gives_the_same_bytes_also_after_another_size(pipe):
    width, height = pipe.size_limits.default
    first = pipe("a red apple", generator=seeded(), recipe=STITCHED, **CALL).images[0]
    other = pipe("a dog", generator=seeded(1), recipe=STITCHED, width=width // 2, height=height, **CALL).images[0]
    again = pipe("a red apple", generator=seeded(), recipe=STITCHED, **CALL).images[0]
    assert other.size == (width // 2, height)
    assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("recipe", [STITCHED, "srdiffusion", "mdd"], ids=str)
def test_pictures_of_a_batch_are_those_made_alone(pipe, recipe):
    prompts = ["a red apple", "a dog", "a blue car"]

    def draw(order: list[int]) -> Output:
        generators = [seeded(number) for number in order]
        chosen = [prompts[number] for number in order]
        call = CALL | {"negative_prompt": ["blue"] * len(order)}
        return pipe(chosen, generator=generators, recipe=recipe, output_type="pt", **call)

    batch, alone = draw([0, 1, 2]), draw([1])
    torch.testing.assert_close(draw([2, 0, 1]).images[[1, 2, 0]], batch.images, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone.images, batch.images[1:2], rtol=1e-3, atol=1e-3)
    assert (alone.report.large_steps[0] == batch.report.large_steps[1]).all()


@pytest.mark.parametrize("recipe", [*recipes(), STITCHED, Recipe(STAGES, fill=fills.SmallRest())])
def test_reported_tokens_are_those_that_the_blocks_saw(pipe, recipe):
    seen = {"large": 0, "small": 0}

    def count(name):
        def hook(block, arguments, keywords):
            pictures = (keywords["hidden_states"].shape[0] + 1) // 2  # one half or both of the guidance
            seen[name] += pictures * keywords["hidden_states"].shape[1]

        return hook

    hooks = [
        model.transformer_blocks[0].register_forward_pre_hook(count(name), with_kwargs=True)
        for name, model in (("large", pipe.large), ("small", pipe.small))
    ]
    report = pipe("a red apple", generator=seeded(), recipe=recipe, **CALL | {"num_inference_steps": 10}).report
    for hook in hooks:
        hook.remove()

    all_tokens = 10 * report.large_steps[0].size
    assert sum(stage.large_tokens for stage in report.stages) == seen["large"] == report.large_steps.sum()
    assert sum(stage.small_tokens for stage in report.stages) == seen["small"]
    assert report.large_token_share == seen["large"] / all_tokens
    # Its plan and its fill may both ask the small model at a step: the share counts a token once a step.
    twice = recipe == "mdd"
    share = seen["small"] / all_tokens
    assert report.small_token_share < share if twice else report.small_token_share == share
    assert sum(stage.steps for stage in report.stages) == len(report.share_by_step) == 10


def test_stages_of_the_papers_recipe(pipe):
    report = pipe("a red apple", generator=seeded(), num_inference_steps=28, recipe="hybridstitch").report
    assert [(stage.name, stage.steps) for stage in report.stages] == [("large", 4), ("hybrid", 7), ("small", 17)]
    tokens = report.large_steps[0].size
    assert report.stages[1].large_tokens == 7 * round(0.3 * tokens)
    assert report.flops_share < 1
    assert report.warnings == []


def test_a_mask_lands_where_it_points(pipe):
    rows, columns = (side // pipe.size_limits.multiple_of for side in reversed(pipe.size_limits.default))
    recipe = Recipe(Staged(large=0.2, hybrid=0.8, share=0.25), Box(left=0.5, top=0.0, right=1.0, bottom=0.5))
    grid = pipe("a red apple", generator=seeded(), recipe=recipe, **CALL).report.large_steps[0]
    expected = np.ones((rows, columns), dtype=int)
    expected[: rows // 2, columns // 2 :] = 5
    assert np.array_equal(grid, expected)


def test_an_exception_leaves_everything_as_it_was(pipe):
    before = [dict(model.attn_processors) for model in (pipe.large, pipe.small)]
    timesteps = pipe.components["scheduler"].timesteps.clone()
    reference = pipe("a red apple", generator=seeded(), recipe=STITCHED, **CALL).images[0]

    def stop(_, index, *rest):
        if index == 3:
            raise KeyboardInterrupt
        return {}

    def fail(module, arguments, keywords):
        if keywords["hidden_states"].shape[1] < all_tokens:
            raise RuntimeError("inside a hybrid step")

    all_tokens = pipe("a dog", generator=seeded(), recipe="large", **CALL).report.large_steps[0].size
    with pytest.raises(KeyboardInterrupt):
        pipe("a dog", generator=seeded(), recipe=STITCHED, callback_on_step_end=stop, **CALL)
    hook = pipe.large.transformer_blocks[1].register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="inside a hybrid step"):
        pipe("a dog", generator=seeded(), recipe=STITCHED, **CALL)
    hook.remove()
    for model, processors in zip((pipe.large, pipe.small), before, strict=True):
        assert all(model.attn_processors[name] is processor for name, processor in processors.items())
    assert torch.equal(pipe.components["scheduler"].timesteps, timesteps)
    assert pipe("a red apple", generator=seeded(), recipe=STITCHED, **CALL).images[0].tobytes() == reference.tobytes()


def test_latents_from_the_callback_replace_the_steps(pipe):
    def zero(_, index, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = pipe("a dog", generator=seeded(), callback_on_step_end=zero, output_type="latent", **CALL).images
    assert not latents.any()


def test_latents_that_are_not_finite_are_no_picture(pipe):
    def poison(_, index, timestep, tensors):
        return {"latents": tensors["latents"] * float("nan")}

    with pytest.raises(FloatingPointError, match="not finite"):
        pipe("a dog", generator=seeded(), callback_on_step_end=poison, **CALL)


def test_too_few_steps_to_save_anything_is_said(pipe):
    report = pipe("a dog", generator=seeded(), num_inference_steps=1, recipe="hybridstitch").report
    assert "no work was saved" in report.warnings[0]
    assert "too few steps for a step with a mask" in report.warnings[1]


def test_a_prompt_too_long_for_the_text_encoders_is_said(pipe):
    assert "CLIP" in pipe("a dog " * 20, generator=seeded(), recipe="small", **CALL).report.warnings[0]


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        ({"width": 13}, ["width"]),
        ({"width": 8, "height": 100_000}, ["width", "height"]),
        ({"num_inference_steps": 0}, ["num_inference_steps"]),
        ({"num_inference_steps": True, "guidance_scale": float("nan")}, ["num_inference_steps", "guidance_scale"]),
        ({"output_type": "gif", "recipe": "no-such", "height": 3}, ["height", "output_type", "recipe"]),
        ({"recipe": {"plan": {"type": "staged", "share": 2}}}, ["recipe.plan.share"]),
    ],
)
def test_wrong_arguments_are_named(pipe, wrong, fields):
    with pytest.raises(InvalidInput) as caught:
        pipe("a dog", **CALL | wrong)
    assert [problem.field for problem in caught.value.problems] == fields
