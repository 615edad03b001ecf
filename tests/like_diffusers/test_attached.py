"""What a user attaches to a transformer, or sets as a part, acts or is refused."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading
from diffusers.models.attention_processor import JointAttnProcessor2_0
from peft import LoraConfig

from hybridstitch import Recipe, fills
from hybridstitch.model.guidance import GuidedModel
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


class Parked(ModelHook):
    """Keeps the weights of a module away while it does not run, as offloading does: NaN takes their places."""

    def __init__(self, *modules: torch.nn.Module):
        super().__init__()
        self.weights = [(each, each.data) for module in modules for each in module.parameters()]
        self.calls = 0
        self.park()

    def park(self):
        for parameter, weight in self.weights:
            parameter.data = torch.full_like(weight, torch.nan)

    def pre_forward(self, module, *given, **keywords):
        self.calls += 1
        for parameter, weight in self.weights:
            parameter.data = weight
        return given, keywords

    def post_forward(self, module, output):
        self.park()
        return output


def park(module, *parts):
    hook = Parked(*parts)
    HookRegistry.check_if_exists_or_initialize(module).register_hook(hook, "parked")
    return hook


@pytest.mark.parametrize("recipe", [MASKED, RECIPES["small-rest"][1]], ids=["large", "both"])
def test_weights_that_hooks_park_are_there_in_every_forward(pipe, recipe):
    before = pipe("a dog", generator=seeded(), recipe=recipe, **CALL).images
    hooks = {}
    for side in ("large", "small"):
        model = getattr(pipe, side)
        others = [part for name, part in model.named_children() if name != "transformer_blocks"]
        hooks[side] = [park(model, *others), *(park(block, block) for block in model.transformer_blocks)]
    out = pipe("a dog", generator=seeded(), recipe=recipe, **CALL)
    assert torch.equal(out.images, before)
    steps = {"large": sum(stage.steps for stage in out.report.stages if stage.large_tokens)}
    steps["small"] = sum(stage.steps for stage in out.report.stages if stage.small_tokens)
    for side, of_model in hooks.items():
        assert [each.calls for each in of_model] == [steps[side]] * len(of_model)
    assert {stage.name for stage in out.report.stages} >= {"large", "hybrid"}


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
@pytest.mark.parametrize("recipe", ["large", *RECIPES["small-rest"][1:], MASKED], ids=["large", "both", "masked"])
def test_group_offloading_gives_equal_pictures(pipe, kind, recipe):
    before = pipe("a dog", generator=seeded(), recipe=recipe, **CALL).images
    for model in (pipe.large, pipe.small):
        apply_group_offloading(
            model, torch.device("cpu"), offload_type=kind, num_blocks_per_group=1 if kind == "block_level" else None
        )
    assert torch.equal(pipe("a dog", generator=seeded(), recipe=recipe, **CALL).images, before)


@pytest.mark.parametrize(("side", "recipe"), RECIPES.values(), ids=RECIPES)
def test_the_scale_of_an_adapter_acts_as_in_diffusers(pipe, side, recipe):
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v", "proj_out"])
    getattr(pipe, side).add_adapter(config)

    def picture(**given):
        return pipe("a dog", generator=seeded(), recipe=recipe, **CALL, **given).images

    scaled = {scale: picture(joint_attention_kwargs={"scale": scale}) for scale in (0.0, 0.5, 1.0)}
    assert torch.equal(picture(), scaled[1.0])
    assert not torch.equal(scaled[0.5], scaled[1.0])
    assert not torch.equal(scaled[0.5], scaled[0.0])
    if isinstance(recipe, str):
        other = StableDiffusion3Pipeline(**{**pipe.components, "transformer": getattr(pipe, side)})
        other.set_progress_bar_config(disable=True)
        call = {**CALL, "max_sequence_length": 0, "joint_attention_kwargs": {"scale": 0.5}}
        assert torch.equal(other("a dog", generator=seeded(), **call).images, scaled[0.5])
    getattr(pipe, side).disable_adapters()
    torch.testing.assert_close(scaled[0.0], picture())


@pytest.mark.parametrize("side", ["large", "small"])
def test_gradient_checkpointing_gives_the_gradients_of_a_plain_forward(pipe, side):
    model = getattr(pipe, side)
    calls = []
    model.transformer_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    found = []
    for enable in (False, True):
        if enable:
            model.enable_gradient_checkpointing()
        context = torch.randn(1, 16, 32, generator=seeded()).requires_grad_()
        guided = GuidedModel(model, context, torch.ones(1, 32), 0.0, cached=False)
        latents = torch.randn(1, 4, 16, 16, generator=seeded())
        guided(latents, torch.tensor(500.0)).square().sum().backward()
        found.append((context.grad, len(calls)))
    assert torch.equal(found[0][0], found[1][0])
    assert [count for _, count in found] == [1, 3]  # checkpointing runs a block again for its gradient


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


@pytest.mark.parametrize("name", ["set_adapters", "enable_sequential_cpu_offload", "interrupt", "guidance_scale"])
def test_parts_of_diffusers_pipeline_that_are_not_there_are_named(shared, name):
    with pytest.raises(AttributeError, match=name):
        getattr(shared, name)
    with pytest.raises(AttributeError, match=name):
        setattr(shared, f"_{name}", None)
