"""Attributes, folders, types and threads of the pipeline, as a user of diffusers meets them."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from safetensors.torch import load_file

from hybridstitch import HybridStitchPipeline, InvalidInput
from hybridstitch.explain import explain
from hybridstitch.wire.fields import BUILT_IN_DEFAULTS
from tests.support.calls import CALL, MASKED, OURS, seeded
from tests.support.tiny import load_pipeline


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
    again = load_pipeline(tmp_path / "again", variant=variant)
    for recipe in ("large", MASKED):
        pictures = [each("a dog", generator=seeded(), recipe=recipe, **CALL).images for each in (shared, again)]
        assert torch.equal(*pictures)


def test_a_saved_pair_keeps_what_it_was_tuned_to(emoji, tmp_path):
    shared = load_pipeline(emoji, dtype="float16")
    shared.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path, dtype=torch.float16)
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
def test_the_type_of_the_weights_has_two_names_and_may_be_a_string(tiny, given, expected):
    shared = load_pipeline(tiny, **given)
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
def test_another_type_of_the_weights_is_refused(tiny, given, field):
    with pytest.raises(InvalidInput) as caught:
        HybridStitchPipeline.from_pretrained(tiny, **given)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_guidance_has_one_default_everywhere():
    assert "guidance_scale" not in inspect.signature(explain).parameters  # it takes the default of the call
    assert OURS["guidance_scale"].default == BUILT_IN_DEFAULTS["guidance_scale"] == 4.5


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


def test_no_part_moves_under_a_generation_of_another_thread(pipe):
    alone = pipe("a dog", generator=seeded(1), **CALL).images
    mover = threading.Thread(target=pipe.to, args=(torch.float64,))

    def start(_pipe, step, _time, inputs):
        if step == 0:
            mover.start()
            mover.join(0.2)
        return inputs

    found = pipe("a dog", generator=seeded(1), callback_on_step_end=start, **CALL).images
    mover.join()
    assert pipe.dtype == torch.float64
    assert torch.equal(found, alone)


def test_a_pair_is_saved_as_it_is_while_another_thread_generates(pipe, tmp_path):
    """A forward with a cache exchanges the blocks for others, whose weights have other names."""
    weights = {name: each.clone() for name, each in pipe.large.state_dict().items()}
    saver = threading.Thread(target=pipe.save_pretrained, args=(tmp_path,))
    waited: list[bool] = []

    def start(*_):
        if not waited:
            saver.start()
            saver.join(1)
            waited.append(saver.is_alive())

    hook = pipe.large.transformer_blocks[0].register_forward_hook(start)
    pipe("a dog", generator=seeded(1), recipe=MASKED, **CALL)
    hook.remove()
    saver.join()
    assert waited == [True]
    saved = load_file(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], each) for name, each in weights.items())


def test_the_documents_way_to_open_the_pair_by_diffusers_works(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.chdir(root)
    code = (root / "docs" / "pair.md").read_text().split("```python\n")[1].split("```")[0]
    found: dict[str, object] = {}
    exec(code, found)
    assert found["image"].size == (128, 128)
