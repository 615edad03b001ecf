"""The call takes every argument of `StableDiffusion3Pipeline`, or refuses it by name before any work."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from diffusers.callbacks import SD3CFGCutoffCallback

from hybridstitch import InvalidInput
from tests.support.calls import CALL, OURS, THEIRS, embeds, refused, seeded

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
    "latents": lambda pipe: {"latents": noise()},
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
    "joint_attention_kwargs": lambda pipe: {"joint_attention_kwargs": {"scale": 0.5}},
    "skip_guidance_layers": lambda pipe: {"skip_guidance_layers": [0], "skip_layer_guidance_stop": 1.0},
    "skip_layer_guidance_scale": lambda pipe: {"skip_layer_guidance_scale": 3.0, "skip_guidance_layers": [0]},
    "skip_layer_guidance_stop": lambda pipe: {"skip_layer_guidance_stop": 0.9, "skip_guidance_layers": [1]},
    "skip_layer_guidance_start": lambda pipe: {
        "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 0.9,
        "skip_guidance_layers": [1],
    },
}
REFUSED = {
    "ip_adapter_image": np.zeros((8, 8, 3)),
    "ip_adapter_image_embeds": torch.zeros(1, 1, 4),
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
    "joint_attention_kwargs": [{"mask": 1}, {"scale": float("nan")}, 5],
    "skip_guidance_layers": [[9], "1", {"medium": [0]}],
    "skip_layer_guidance_scale": [float("inf")],
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
