"""Parts that wait on the CPU: hooks bring each before it runs, for both models, and pictures have equal bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from hybridstitch import HybridStitchPipeline
from hybridstitch.base.paths import SMALL_FOLDER
from hybridstitch.errors import InvalidInput
from hybridstitch.model.offload import OFFLOAD, TEXT_ENCODERS
from tests.support.handlers import CONFIG, QUICK, call, make_handler, pixels
from tests.support.tiny import load_pipeline

RECIPE = {"plan": {"type": "staged", "large": 0.5, "hybrid": 0.3, "share": 0.25}, "fill": "small"}


def generate(pipe: HybridStitchPipeline, **fields: Any) -> torch.Tensor:
    arguments = {"recipe": RECIPE, "num_inference_steps": 6, "output_type": "pt", **fields}
    return pipe("a cat", generator=torch.Generator().manual_seed(0), **arguments).images


def modules(pipe: HybridStitchPipeline) -> dict[str, nn.Module]:
    found = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return found | {SMALL_FOLDER: pipe.small}


@pytest.mark.parametrize("text_encoders", TEXT_ENCODERS)
@pytest.mark.parametrize("offload", OFFLOAD)
def test_pictures_have_equal_bits(
    tiny: Path, tiny_pipe: HybridStitchPipeline, text_encoders: str, offload: str
) -> None:
    pipe = load_pipeline(tiny).offload("cpu", text_encoders=text_encoders, offload=offload)
    assert torch.equal(generate(pipe), generate(tiny_pipe))
    assert torch.equal(generate(pipe, guidance_scale=1.0), generate(tiny_pipe, guidance_scale=1.0))
    assert pipe.device == torch.device("cpu")


def test_each_part_is_on_the_stage_while_it_runs(tiny: Path) -> None:
    pipe = load_pipeline(tiny)
    pipe.enable_model_cpu_offload(device="cpu")
    assert pipe.offloaded is not None
    stage, runs = pipe.offloaded.stage, dict.fromkeys(modules(pipe), 0)

    def watch(name: str, part: nn.Module) -> None:
        # A module inside the part, because what the hook brings is there only once its own forward has begun.
        inner = part.decoder if name == "vae" else next(part.children())
        inner.register_forward_pre_hook(lambda module, inputs: seen(name, part))

    def seen(name: str, part: nn.Module) -> None:
        assert stage.current is part, name
        runs[name] += 1

    for name, part in modules(pipe).items():
        watch(name, part)
    generate(pipe)
    assert runs["transformer"] == 5, "three dense steps and two hybrid ones"
    assert runs[SMALL_FOLDER] == 3, "two hybrid steps and one by the small model"
    assert (runs["text_encoder"], runs["text_encoder_2"], runs["vae"]) == (2, 2, 1)
    # Both encoders twice, the large model, whose turn goes on into the first hybrid step, the small one, both in the
    # second hybrid step, and the decoder.
    assert stage.entered == 4 + 1 + 1 + 2 + 1


def test_weights_that_are_absent_between_forwards_are_brought_by_diffusers_hooks(
    tiny: Path, tiny_pipe: HybridStitchPipeline, tmp_path: Path
) -> None:
    """Group offloading to a disk leaves nothing in memory: a hook that does not fire leaves its block empty."""
    pipe = load_pipeline(tiny)
    for number, model in enumerate((pipe.large, pipe.small)):
        cpu, folder = torch.device("cpu"), str(tmp_path / str(number))
        apply_group_offloading(model, cpu, cpu, "block_level", num_blocks_per_group=1, offload_to_disk_path=folder)
    assert torch.equal(generate(pipe), generate(tiny_pipe))
    assert len(list(tmp_path.rglob("*.safetensors"))) >= len(pipe.large.transformer_blocks)


def test_embeddings_and_cache(tiny: Path, tiny_pipe: HybridStitchPipeline) -> None:
    pipe = load_pipeline(tiny).offload("cpu", text_encoders="offload", offload="none")
    pipe.prompts.cache.limit = 2**20
    assert pipe.offloaded is not None
    generate(pipe)
    entered = pipe.offloaded.stage.entered
    assert pipe.offloaded.stage.current is None, "the transformers have the room"
    generate(pipe)
    assert pipe.offloaded.stage.entered == entered > 0
    mine, theirs = (each.encode_prompt("a cat") for each in (pipe, tiny_pipe))
    assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def test_what_cannot_be_offloaded_is_refused(tiny: Path) -> None:
    pipe = load_pipeline(tiny)
    with pytest.raises(InvalidInput, match=r"text_encoders: expected one of: device, cpu, offload, got 'disk'"):
        pipe.offload("cpu", text_encoders="disk")
    assert pipe.offloaded is None
    pipe.offload("cpu", offload="group")
    with pytest.raises(ValueError, match="got one that is offloaded"):
        pipe.to("cpu")
    with pytest.raises(ValueError, match=r"to_devices: expected .* got one that is offloaded"):
        pipe.to_devices("cpu", "cpu")
    with pytest.raises(ValueError, match="not offloaded yet"):
        pipe.enable_model_cpu_offload(device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(InvalidInput, match="torch finds no GPU here"):
            load_pipeline(tiny).enable_model_cpu_offload()


@pytest.mark.parametrize("name", ["hybridstitch_handler", "plain_sd3_handler"])
@pytest.mark.parametrize("offload", ["model", "group"])
def test_a_worker_offloads_by_its_settings(tiny: Path, name: str, offload: str) -> None:
    config = {**CONFIG, "handler": {**CONFIG["handler"], "offload": offload, "text_encoders": "cpu"}}
    offloading, usual = (make_handler(name, tiny, each) for each in (config, CONFIG))
    row = {"body": QUICK | {"num_inference_steps": 6} | ({"recipe": RECIPE} if usual.service.stitches else {})}
    (first,), (second,) = (call(each, [row])[0] for each in (offloading, usual))
    assert (pixels(first) == pixels(second)).all()
    hook = {"model": "_hf_hook", "group": "_diffusers_hook"}[offload]
    assert hasattr(offloading.service.pipeline.transformer, hook)
    assert not hasattr(usual.service.pipeline.transformer, hook)
