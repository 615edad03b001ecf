"""Skip-layer guidance as in diffusers' pipeline, on all tokens and on a part of them."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hybridstitch import Recipe, fills
from hybridstitch.masks import All
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.mmdit import cached_attention
from hybridstitch.model.skip_layers import SkipLayers
from hybridstitch.plans import Staged
from hybridstitch.testing.toys import LAYOUTS, tiny_transformer
from tests.support.calls import MASKED, refused, seeded

CALL = {"prompt": "a dog", "num_inference_steps": 6, "guidance_scale": 3.5, "output_type": "latent"}
TIMES = torch.tensor([2.0, 1.0])
SKIP = {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.7}


def of_small(plain: StableDiffusion3Pipeline, pipe) -> StableDiffusion3Pipeline:
    other = StableDiffusion3Pipeline(**{**plain.components, "transformer": pipe.small})
    other.set_progress_bar_config(disable=True)
    return other


@pytest.mark.parametrize(
    "skip",
    [
        {"skip_guidance_layers": [0, 1], "skip_layer_guidance_stop": 0.9},
        {"skip_guidance_layers": [1], "skip_layer_guidance_scale": 1.7, "skip_layer_guidance_stop": 1.0},
        {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.5, "skip_layer_guidance_stop": 0.51},
        SKIP,
    ],
)
@pytest.mark.parametrize("recipe", ["large", "small"])
def test_one_model_with_skipped_layers_is_diffusers_own_pipeline_bit_by_bit(shared, plain, recipe, skip):
    theirs = plain if recipe == "large" else of_small(plain, shared)
    expected = theirs(**CALL, **skip, generator=seeded(), max_sequence_length=0).images
    ours = shared(**CALL, **skip, generator=seeded(), recipe=recipe)
    assert torch.equal(ours.images, expected)
    without = shared(**CALL, generator=seeded(), recipe=recipe)
    changes = skip["skip_layer_guidance_stop"] != 0.51  # a window without a step
    assert torch.equal(ours.images, without.images) != changes


def test_layers_of_one_model_leave_the_other_one_alone(shared):
    def pictures(recipe, **skip):
        return shared(**CALL, generator=seeded(), recipe=recipe, **skip).images

    window = {"skip_layer_guidance_stop": 1.0}
    both, large, small = [1], {"large": [1]}, {"small": [1]}
    for recipe, own, other in (("large", large, small), ("small", small, large)):
        assert torch.equal(pictures(recipe, skip_guidance_layers=other, **window), pictures(recipe))
        given = [pictures(recipe, skip_guidance_layers=each, **window) for each in (own, both)]
        assert torch.equal(*given)
        assert not torch.equal(given[0], pictures(recipe))
    # The small model has two layers, and a list names those of the large one.
    beyond = pictures("small", skip_guidance_layers=[2], **window)
    assert torch.equal(beyond, pictures("small"))


@pytest.mark.parametrize("start", [0.0, 0.2, 0.4])
def test_a_part_of_the_tokens_has_the_guidance_of_all(shared, start):
    """With every token in the mask, the pictures are those of the large model, wherever the window begins."""
    skip = SKIP | {"skip_layer_guidance_start": start, "skip_layer_guidance_stop": 0.9}
    everything = Recipe(Staged(large=0.2, hybrid=0.8, share=0.5), All())
    stitched = shared(**CALL, **skip, generator=seeded(), recipe=everything)
    assert stitched.report.stages[-1].name == "hybrid"
    large = shared(**CALL, **skip, generator=seeded(), recipe="large").images
    assert torch.equal(stitched.images, large)
    assert not torch.equal(large, shared(**CALL, generator=seeded(), recipe="large").images)


@pytest.mark.parametrize("fill", [fills.Small(), fills.SmallRest(), fills.Last()])
def test_a_masked_recipe_counts_the_further_forwards(shared, fill):
    recipe = Recipe(MASKED.plan, fill=fill)
    reports = [shared(**CALL, **skip, generator=seeded(), recipe=recipe).report for skip in ({}, SKIP)]
    assert reports[0].large_token_share == reports[1].large_token_share
    tokens = [[stage.large_tokens for stage in report.stages] for report in reports]
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("layers", [(1,), (0, 3)])
def test_flops_without_layers_agree_with_torch_counting_them(layout, layers):
    transformer = tiny_transformer(layout, layers=4, heads=32, caption_projection_dim=256)
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 24, 24, generator=noise)
    context, pooled = torch.randn(2, 7, 32, generator=noise), torch.randn(2, 32, generator=noise)
    tokens = torch.arange(36)[None]
    model = GuidedModel(transformer, context, pooled, 3.0, True, SkipLayers(layers, start=0, stop=1), TIMES)
    with torch.no_grad(), cached_attention(transformer), sdpa_kernel(SDPBackend.MATH):
        for chosen in (None, None, tokens):
            before = model.flops
            with FlopCounterMode(display=False) as counter:
                model(latents, torch.tensor(1.0), chosen)
            assert model.flops - before == pytest.approx(counter.get_total_flops(), rel=0.001)
    assert model.token_steps == 144 + 144 + 36


def test_the_large_model_with_the_same_layers_is_the_measure_of_cost(shared):
    def share(recipe, **skip):
        return shared(**CALL, **skip, generator=seeded(), recipe=recipe).report.flops_share

    window = {"skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.7}
    assert share("large", **SKIP) == 1.0
    assert share("small", skip_guidance_layers={"small": [1]}, **window) > share("small")
    assert share("small", skip_guidance_layers={"large": [1]}, **window) < share("small")


def test_the_report_names_the_layers_and_warns_where_they_have_no_effect(shared):
    settings = shared(**CALL, **SKIP, generator=seeded()).report.to_dict()["skip_layers"]
    assert settings["small"] == {"layers": [1], "scale": 2.8, "start": 0.1, "stop": 0.7}
    call = CALL | {"guidance_scale": 1.0, "generator": seeded(), "recipe": "large"}
    out = shared(**call, **SKIP)
    assert any("skip_guidance_layers" in warning for warning in out.report.warnings)
    assert torch.equal(out.images, shared(**call | {"generator": seeded()}).images)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"skip_guidance_layers": [3]}, "skip_guidance_layers"),
        ({"skip_guidance_layers": [-1]}, "skip_guidance_layers"),
        ({"skip_guidance_layers": 1}, "skip_guidance_layers"),
        ({"skip_guidance_layers": [1.0]}, "skip_guidance_layers"),
        ({"skip_guidance_layers": {"small": [2]}}, "skip_guidance_layers.small"),
        ({"skip_guidance_layers": {"medium": [1]}}, "skip_guidance_layers.medium"),
        ({"skip_layer_guidance_scale": float("nan")}, "skip_layer_guidance_scale"),
        ({"skip_layer_guidance_start": -0.1}, "skip_layer_guidance_start"),
        ({"skip_layer_guidance_stop": "1"}, "skip_layer_guidance_stop"),
        ({"joint_attention_kwargs": {"ip_adapter_masks": [1]}}, "joint_attention_kwargs"),
        ({"joint_attention_kwargs": {"scale": "1"}}, "joint_attention_kwargs"),
    ],
)
def test_wrong_layers_are_named(shared, given, field):
    assert refused(shared, **CALL, **given) == {field}
