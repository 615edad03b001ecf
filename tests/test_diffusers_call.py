"""The pipeline as a user of diffusers meets it: the arguments, attributes and results of `StableDiffusion3Pipeline`."""

from __future__ import annotations

import inspect
import threading
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from diffusers.callbacks import SD3CFGCutoffCallback
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.attention_processor import JointAttnProcessor2_0

from hybridstitch import HybridStitchPipeline, InvalidInput, Recipe, fills
from hybridstitch.explain import explain
from hybridstitch.plans import Staged
from hybridstitch.serving.request import BUILT_IN_DEFAULTS
from tests.tiny import make_pair_folder

CALL = {"num_inference_steps": 3, "guidance_scale": 3.5, "output_type": "latent"}
MASKED = Recipe(Staged(large=0.4, hybrid=0.6, share=0.3))
THEIRS = inspect.signature(StableDiffusion3Pipeline.__call__).parameters
OURS = inspect.signature(HybridStitchPipeline.__call__).parameters


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_pair_folder(tmp_path_factory.mktemp("call"))


@pytest.fixture
def pipe(folder) -> HybridStitchPipeline:
    """One to change."""
    return opened(folder)


@pytest.fixture(scope="module")
def shared(folder) -> HybridStitchPipeline:
    """One that stays as it is."""
    return opened(folder)


def opened(folder: Path, **options) -> HybridStitchPipeline:
    pipe = HybridStitchPipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def plain(folder) -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embeds(pipe: HybridStitchPipeline, prompt: str | list[str] = "a dog") -> dict[str, torch.Tensor]:
    found = pipe.encode_prompt(prompt, negative_prompt="blue")
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, found, strict=True))


def refused(pipe: HybridStitchPipeline, **call) -> set[str]:
    with pytest.raises(InvalidInput) as caught:
        pipe(**call)
    return {problem.field for problem in caught.value.problems}


# Arguments: taken with diffusers' meaning, or refused by name.


def double(_pipe, _step, _timestep, tensors):
    return {name: tensor * 1.1 for name, tensor in tensors.items()}


def noise(pictures: int = 1) -> torch.Tensor:
    return torch.randn(pictures, 4, 16, 16, generator=seeded(7))


TAKEN = {
    "prompt": lambda pipe: {"prompt": ["a cat", "a dog"]},
    "prompt_2": lambda pipe: {"prompt_2": "a cat"},
    "prompt_3": lambda pipe: {"prompt_3": "a cat"},
    "height": lambda pipe: {"height": pipe.size_limits.default[1] // 2},
    "width": lambda pipe: {"width": pipe.size_limits.default[0] // 2},
    "num_inference_steps": lambda pipe: {"num_inference_steps": 2},
    "sigmas": lambda pipe: {"sigmas": [1.0, 0.6, 0.1]},
    "guidance_scale": lambda pipe: {"guidance_scale": 0.5},
    "negative_prompt": lambda pipe: {"negative_prompt": "red"},
    "negative_prompt_2": lambda pipe: {"negative_prompt_2": "red"},
    "negative_prompt_3": lambda pipe: {"negative_prompt_3": "red"},
    "num_images_per_prompt": lambda pipe: {"num_images_per_prompt": 2},
    "generator": lambda pipe: {"generator": [seeded(3)]},
    "latents": lambda pipe: {"latents": pipe.initial_latents(*pipe.size_limits.default, [seeded(9)])},
    "prompt_embeds": lambda pipe: {"prompt": None, **embeds(pipe)},
    "negative_prompt_embeds": lambda pipe: {
        name: value for name, value in embeds(pipe).items() if name.startswith("negative")
    },
    "pooled_prompt_embeds": lambda pipe: {
        "prompt": None,
        **{name: value for name, value in embeds(pipe).items() if not name.startswith("negative")},
    },
    "negative_pooled_prompt_embeds": lambda pipe: {"prompt": None, **embeds(pipe, ["a cat", "a dog"])},
    "output_type": lambda pipe: {"output_type": "pt"},
    "return_dict": lambda pipe: {"return_dict": False},
    "clip_skip": lambda pipe: {"clip_skip": 1},
    "callback_on_step_end": lambda pipe: {"callback_on_step_end": double},
    "callback_on_step_end_tensor_inputs": lambda pipe: {
        "callback_on_step_end": double,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds", "pooled_prompt_embeds"],
    },
    "max_sequence_length": lambda pipe: {"max_sequence_length": 5},
}
REFUSED = {
    "ip_adapter_image": np.zeros((8, 8, 3)),
    "ip_adapter_image_embeds": torch.zeros(1, 1, 4),
    "joint_attention_kwargs": {"scale": 0.5},
    "skip_guidance_layers": [0],
    "skip_layer_guidance_scale": 3.0,
    "skip_layer_guidance_stop": 0.5,
    "skip_layer_guidance_start": 0.1,
    "mu": 1.0,
}


def test_the_call_has_diffusers_arguments_in_their_order():
    assert [name for name in OURS if name in THEIRS] == list(THEIRS)
    assert set(THEIRS) - {"self"} == {*TAKEN, *REFUSED}
    other = {"guidance_scale", "max_sequence_length"}  # the project's own default, and the pair's
    for name in set(THEIRS) - other:
        ours, theirs = OURS[name].default, THEIRS[name].default
        assert ours == theirs or list(ours) == theirs, name


@pytest.mark.parametrize("name", TAKEN)
def test_an_argument_means_what_it_means_in_diffusers(shared, plain, name):
    given = {"prompt": "a red apple", "generator": seeded(), **CALL, **TAKEN[name](shared)}
    expected = plain(**{"max_sequence_length": 0, **given})[0]
    given |= {"generator": seeded()} if isinstance(given["generator"], torch.Generator) else {"generator": [seeded(3)]}
    out = shared(**given, recipe="large")
    images = out.images if given.get("return_dict", True) else out[0]
    assert torch.equal(images, expected)
    if not given.get("return_dict", True):
        assert len(out) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_without_effect_is_refused(shared, name):
    assert refused(shared, prompt="a dog", **{name: REFUSED[name]}) == {name}


def test_arguments_of_diffusers_at_their_defaults_are_taken(shared):
    defaults = {name: each.default for name, each in THEIRS.items() if name not in ("self", "prompt", "output_type")}
    defaults |= {"num_inference_steps": 1, "joint_attention_kwargs": {}, "num_images_per_prompt": None}
    assert shared("a dog", output_type="latent", **defaults).images.shape[0] == 1


def test_a_function_of_the_library_that_changes_the_guidance_is_refused(shared):
    with pytest.raises(AttributeError, match="not supported"):
        shared("a dog", callback_on_step_end=SD3CFGCutoffCallback(cutoff_step_ratio=0.5), **CALL)


def test_a_callback_may_return_nothing(shared):
    seen = []
    shared("a dog", callback_on_step_end=lambda *given: seen.append(sorted(given[3])), **CALL)
    assert seen == [["latents"]] * 3


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (3, "callback_on_step_end"),
        ({"latent": torch.zeros(1)}, "callback_on_step_end.latent"),
        ({"latents": torch.zeros(1, 2)}, "callback_on_step_end.latents"),
        ({"prompt_embeds": None}, "callback_on_step_end.prompt_embeds"),
    ],
)
def test_what_a_callback_returns_is_used_or_refused(shared, answer, field):
    assert refused(shared, prompt="a dog", callback_on_step_end=lambda *_: answer, **CALL) == {field}


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor, lambda levels: [np.float32(each) for each in levels]])
def test_any_falling_sequence_of_noise_levels_is_taken(shared, kind):
    expected = shared("a dog", generator=seeded(), sigmas=[1.0, 0.5, 0.25], **CALL).images
    out = shared("a dog", generator=seeded(), sigmas=kind([1.0, 0.5, 0.25]), **CALL)
    assert torch.equal(out.images, expected)


def test_numbers_of_numpy_are_numbers(shared):
    size = shared.size_limits.default[0]
    call = {"num_inference_steps": 3, "guidance_scale": 3.5, "width": size, "height": size, "num_images_per_prompt": 1}
    as_numpy = {name: (np.float32 if isinstance(value, float) else np.int64)(value) for name, value in call.items()}
    region = np.array([0, 0, 8, 8])
    expected = shared("a dog", generator=seeded(), output_type="latent", region=(0, 0, 8, 8), **call)
    out = shared("a dog", generator=seeded(), output_type="latent", region=region, **as_numpy)
    assert torch.equal(out.images, expected.images)
    for name, value in expected.report.to_dict().items():
        if name not in ("timing_ms", "stages"):
            assert out.report.to_dict()[name] == value


# Wrong arguments: every one is named, before any work.

WRONG = {
    "num_images_per_prompt": [0, -1, 2.0, "1", True],
    "prompt": [[], 5, ["a", 3], ("a", "b"), None],
    "prompt_2": [[], 5, ["a", "b", "c"]],
    "prompt_3": [[None], ["a", "b", "c"]],
    "negative_prompt": [[], 5, ["a", "b", "c"]],
    "clip_skip": [99, -1, 1.0, "1"],
    "max_sequence_length": [-1, 513, 2.5, "77"],
    "sigmas": [[], [0.1, 0.9], [1.0, float("nan")], "1.0", 0.5, [1.0, 0.0], [2.0, 1.0], [True], torch.tensor(1.0)],
    "num_inference_steps": [0, 2.5, "28", None],
    "guidance_scale": [float("nan"), -1, "4.5", None],
    "width": [13, "64", 10**6],
    "height": [0, 64.5],
    "latents": [torch.zeros(1, 4, 3, 3), torch.zeros(5), "noise", torch.zeros(1, 4, 16, 16, dtype=torch.int64)],
    "generator": [5, [], [seeded()] * 3, [seeded(), 5]],
    "output_type": ["gif", None, 3],
    "return_dict": ["no", None],
    "callback_on_step_end": [5],
    "callback_on_step_end_tensor_inputs": [["noise"], "latents", None, [3]],
    "on_step": ["print"],
    "recipe": ["no-such", 5],
    "speed": [0.5, "fast"],
    "region": [(0, 0, 0, 0), (1, 2), "all", (0.5, 0, 8, 8), 5],
    "prompt_embeds": [torch.zeros(1, 16, 32), 5],
    "negative_prompt_embeds": [torch.zeros(1, 3, 5), torch.zeros(1, 16, 32)],
    "pooled_prompt_embeds": [torch.zeros(1, 32)],
    "negative_pooled_prompt_embeds": [torch.zeros(1, 3), torch.zeros(1, 32)],
}
"""Wrong beside `prompt="a dog"`, on a pair that was not tuned."""
COMPANIONS = {"negative_prompt_embeds": "negative_pooled_prompt_embeds"}
COMPANIONS |= {theirs: ours for ours, theirs in COMPANIONS.items()}


def named(name: str, fields: set[str]) -> bool:
    wanted = {name, COMPANIONS.get(name, name)}
    return any(field.split(".")[0].split("[")[0] in wanted for field in fields)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_argument_is_named(shared, name, value):
    assert named(name, refused(shared, **{"prompt": "a dog", name: value}))


def test_two_wrong_arguments_are_both_named(shared):
    for (one, first), (other, second) in combinations([(name, values[0]) for name, values in WRONG.items()], 2):
        fields = refused(shared, **{"prompt": "a dog", one: first, other: second})
        # Without a size or a number of prompts the shapes of what goes with them are open.
        open_shapes = other == "latents" and one in ("width", "height")
        open_shapes |= one in ("num_images_per_prompt", "prompt") and other == "generator"
        open_shapes |= one == "prompt" and other in ("prompt_2", "prompt_3", "negative_prompt")
        assert named(one, fields), (one, other, fields)
        assert named(other, fields) or open_shapes, (one, other, fields)


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"pooled_prompt_embeds": None}, {"pooled_prompt_embeds"}),
        ({"negative_pooled_prompt_embeds": None}, {"negative_pooled_prompt_embeds"}),
        ({"prompt": "a dog"}, {"prompt_embeds", "pooled_prompt_embeds"}),
        ({"prompt_3": "a dog"}, {"prompt_embeds", "pooled_prompt_embeds"}),
        ({"negative_prompt": "a dog"}, {"negative_prompt_embeds", "negative_pooled_prompt_embeds"}),
        ({"prompt_embeds": torch.zeros(2, 16, 32)}, {"pooled_prompt_embeds", "negative_prompt_embeds"}),
        ({"prompt_embeds": torch.full((1, 16, 32), float("nan"))}, {"prompt_embeds"}),
        ({"negative_prompt_embeds": torch.zeros(1, 3, 32)}, {"negative_prompt_embeds"}),
        ({"generator": [seeded(), seeded()]}, {"generator"}),
    ],
)
def test_embeddings_that_do_not_fit_together_are_named(shared, given, fields):
    assert fields <= refused(shared, **{**embeds(shared), **given})
    with pytest.raises(InvalidInput):
        shared.encode_prompt("a dog", ["a", "b"], num_images_per_prompt=0)


# What is attached or set acts, or is refused.


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


@pytest.mark.parametrize("name", ["load_lora_weights", "enable_model_cpu_offload", "interrupt", "guidance_scale"])
def test_parts_of_diffusers_pipeline_that_are_not_there_are_named(shared, name):
    with pytest.raises(AttributeError, match=name):
        getattr(shared, name)
    with pytest.raises(AttributeError, match=name):
        setattr(shared, f"_{name}", None)


# Attributes, folders and devices.


def test_the_parts_are_attributes(shared):
    for name, part in shared.components.items():
        if name in ("image_encoder", "feature_extractor"):
            continue
        assert getattr(shared, name) is part
        assert part is None or name == "transformer" or f"{name}: {type(part).__name__}" in repr(shared)
    assert "large: SD3Transformer2DModel" in repr(shared)
    assert "M parameters, float32 on cpu" in repr(shared)
    assert (shared.device, shared.dtype) == (torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("given", [("cpu", torch.bfloat16), (torch.bfloat16,)])
def test_every_part_moves(pipe, given):
    assert pipe.to(*given).dtype == pipe.small.dtype == pipe.vae.dtype == torch.bfloat16
    assert pipe("a dog", **CALL).images.dtype == torch.bfloat16
    assert pipe.to(device="cpu", dtype=torch.float32).small.dtype == torch.float32


def test_decoding_in_tiles_and_slices_can_be_switched(pipe):
    pipe.enable_vae_tiling()
    pipe.enable_vae_slicing()
    assert (pipe.vae.use_tiling, pipe.vae.use_slicing) == (True, True)
    pipe.disable_vae_tiling()
    pipe.disable_vae_slicing()
    assert (pipe.vae.use_tiling, pipe.vae.use_slicing) == (False, False)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_saved_pair_opens_again_with_equal_pictures(shared, tmp_path, variant):
    shared.save_pretrained(tmp_path / "again", variant=variant)
    again = opened(tmp_path / "again", variant=variant)
    for recipe in ("large", MASKED):
        pictures = [each("a dog", generator=seeded(), recipe=recipe, **CALL).images for each in (shared, again)]
        assert torch.equal(*pictures)


def test_a_saved_pair_keeps_what_it_was_tuned_to(emoji, tmp_path):
    shared = opened(emoji, dtype="float16")
    shared.save_pretrained(tmp_path)
    again = opened(tmp_path, dtype=torch.float16)
    assert again.description == shared.description
    assert again.catalogue.recipes == shared.catalogue.recipes
    assert again.catalogue.tuned == shared.catalogue.tuned


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, torch.float32),
        ({"dtype": "float16"}, torch.float16),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": torch.float16}, torch.float16),
        ({"dtype": torch.float16, "torch_dtype": "torch.float16"}, torch.float16),
    ],
)
def test_the_type_of_the_weights_has_two_names_and_may_be_a_string(folder, given, expected):
    shared = opened(folder, **given)
    assert {shared.large.dtype, shared.small.dtype, shared.vae.dtype, shared.text_encoder.dtype} == {expected}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"dtype": "float17"}, "dtype"),
        ({"torch_dtype": 16}, "torch_dtype"),
        ({"dtype": torch.int8}, "dtype"),
        ({"dtype": {"transformer": torch.float16}}, "dtype"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "torch_dtype"),
    ],
)
def test_another_type_of_the_weights_is_refused(folder, given, field):
    with pytest.raises(InvalidInput) as caught:
        HybridStitchPipeline.from_pretrained(folder, **given)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_guidance_has_one_default_everywhere():
    explained = inspect.signature(explain).parameters
    assert (
        OURS["guidance_scale"].default
        == explained["guidance_scale"].default
        == BUILT_IN_DEFAULTS["guidance_scale"]
        == 4.5
    )


def test_threads_share_a_pipeline_and_leave_no_trace(shared):
    seeds = range(8)
    alone = [shared("a dog", generator=seeded(seed), recipe=MASKED, **CALL).images for seed in seeds]
    other = HybridStitchPipeline(shared._pipeline, shared.small)  # the same models by another way
    found: dict[int, torch.Tensor] = {}

    def run(seed: int) -> None:
        found[seed] = (shared, other)[seed % 2]("a dog", generator=seeded(seed), recipe=MASKED, **CALL).images

    threads = [threading.Thread(target=run, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], alone[seed]) for seed in seeds)
    for model in (shared.large, shared.small):
        assert {type(each) for each in model.attn_processors.values()} == {JointAttnProcessor2_0}
        assert not model.pos_embed._forward_hooks
        assert not model.proj_out._forward_hooks


def test_no_part_moves_under_a_generation_of_another_thread(shared):
    alone = shared("a dog", generator=seeded(1), **CALL).images
    mover = threading.Thread(target=shared.to, args=(torch.float64,))

    def start(_pipe, step, _time, inputs):
        if step == 0:
            mover.start()
            mover.join(0.2)
        return inputs

    found = shared("a dog", generator=seeded(1), callback_on_step_end=start, **CALL).images
    mover.join()
    shared.to(torch.float32)
    assert torch.equal(found, alone)


def test_the_documents_way_to_open_the_pair_by_diffusers_works(monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    code = (root / "docs" / "pair.md").read_text().split("```python\n")[1].split("```")[0]
    found: dict[str, object] = {}
    exec(code, found)
    assert found["image"].size == (128, 128)
