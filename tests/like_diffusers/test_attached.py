"""What a user attaches to a transformer, or sets as a part, acts or is refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.attention_processor import JointAttnProcessor2_0

from hybridstitch import Recipe, fills
from hybridstitch.plans import Staged
from tests.support.calls import CALL, MASKED, refused, seeded


class Doubled(ModelHook):
    def post_forward(self, module, output):
        return tuple(2 * each for each in output)


class Foreign(JointAttnProcessor2_0):
    def __call__(self, *arguments, **keywords):
        image, context = super().__call__(*arguments, **keywords)
        return 2 * image, context


def forward_hook(model):
    model.register_forward_hook(lambda _module, _inputs, output: tuple(2 * each for each in output))


def pre_hook(model):
    model.register_forward_pre_hook(
        lambda _module, _inputs, keywords: ((), keywords | {"timestep": keywords["timestep"] / 2}), with_kwargs=True
    )


def replaced_forward(model):
    forward = model.forward
    model.forward = lambda *given, **keywords: tuple(2 * each for each in forward(*given, **keywords))


def backend(graph, _inputs):
    return lambda *given: tuple(2 * each for each in graph(*given))


ACT = {
    "forward hook": forward_hook,
    "forward pre-hook": pre_hook,
    "diffusers' hook": lambda model: HookRegistry.check_if_exists_or_initialize(model).register_hook(Doubled(), "two"),
    "another forward": replaced_forward,
    "a hook of a block": lambda model: model.transformer_blocks[0].register_forward_hook(
        lambda _module, _inputs, output: tuple(2 * each for each in output)
    ),
    "a hook of the output": lambda model: model.proj_out.register_forward_hook(lambda _m, _i, output: 2 * output),
}
WITHOUT_SUBSETS = {
    "attention processor": lambda model: model.transformer_blocks[0].attn.set_processor(Foreign()),
    "compiled": lambda model: model.compile(backend=backend),
}
RECIPES = {"large": ("large", "large"), "masked": ("large", MASKED), "small": ("small", "small")}
RECIPES["small-rest"] = ("small", Recipe(Staged(large=0.4, hybrid=0.6, share=0.3), fill=fills.SmallRest()))


@pytest.mark.parametrize(("side", "recipe"), RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("attached", ACT)
def test_what_is_attached_to_a_transformer_acts(pipe, side, recipe, attached):
    before = pipe("a dog", generator=seeded(), recipe=recipe, **CALL).images
    ACT[attached](getattr(pipe, side))
    assert not torch.equal(pipe("a dog", generator=seeded(), recipe=recipe, **CALL).images, before)


@pytest.mark.parametrize("side", ["large", "small"])
@pytest.mark.parametrize("attached", WITHOUT_SUBSETS)
def test_what_cannot_act_on_a_part_of_the_tokens_is_refused_there(pipe, side, attached):
    before = pipe("a dog", generator=seeded(), recipe=side, **CALL).images
    WITHOUT_SUBSETS[attached](getattr(pipe, side))
    after = pipe("a dog", generator=seeded(), recipe=side, **CALL).images
    assert not torch.equal(after, before)
    masked = {"large": MASKED, "small": RECIPES["small-rest"][1]}[side]
    fields = refused(pipe, prompt="a dog", recipe=masked, num_inference_steps=0)
    assert {field.split(".")[0] for field in fields} == {side, "num_inference_steps"}


def test_parts_that_are_set_are_used(pipe):
    before = pipe("a dog", generator=seeded(), recipe="large", **CALL).images
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    assert pipe.components["scheduler"] is pipe.scheduler
    assert not torch.equal(pipe("a dog", generator=seeded(), recipe="large", **CALL).images, before)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert refused(pipe, prompt="a dog") == {"scheduler"}


@pytest.mark.parametrize("name", ["set_adapters", "enable_model_cpu_offload", "interrupt", "guidance_scale"])
def test_parts_of_diffusers_pipeline_that_are_not_there_are_named(shared, name):
    with pytest.raises(AttributeError, match=name):
        getattr(shared, name)
    with pytest.raises(AttributeError, match=name):
        setattr(shared, f"_{name}", None)
