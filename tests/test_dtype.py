"""The dtype of weights where none is set: by device, by what the files hold and by the memory that is free."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybridstitch import HybridStitchPipeline
from hybridstitch.model import dtype
from hybridstitch.model.pair import find_files
from tests.support.handlers import QUICK, call, make_handler

HALF = "transformer/diffusion_pytorch_model.safetensors"


def stored(tiny: Path, folder: Path, kind: torch.dtype) -> Path:
    """A copy of the toy pair with all weights in a dtype."""
    shutil.copytree(tiny, folder)
    for file in folder.rglob("*.safetensors"):
        save_file({name: value.to(kind) for name, value in load_file(file).items()}, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("kind", "fits", "on_cpu", "elsewhere"),
    [
        (torch.float16, True, torch.float32, torch.float16),
        (torch.float16, False, torch.float16, torch.float16),
        (torch.bfloat16, True, torch.float32, torch.bfloat16),
        (torch.bfloat16, False, torch.bfloat16, torch.bfloat16),
        (torch.float32, True, torch.float32, torch.bfloat16),
        (torch.float32, False, torch.bfloat16, torch.bfloat16),
        (torch.float64, True, torch.float32, torch.bfloat16),
    ],
)
def test_auto_depends_on_device_files_and_memory(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: torch.dtype,
    fits: bool,
    on_cpu: torch.dtype,
    elsewhere: torch.dtype,
) -> None:
    folder = stored(tiny, tmp_path / "pair", kind)
    if not fits:
        weights = sum(value.numel() for file in folder.rglob("*.safetensors") for value in load_file(file).values())
        monkeypatch.setattr(dtype, "free_memory", lambda: 4 * weights)  # none is left for a picture
    pipe = HybridStitchPipeline.from_pretrained(folder)
    parts = (pipe.large, pipe.small, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {part.dtype for part in parts} == {on_cpu}
    assert dtype.choose_dtype(find_files(folder, None, None), torch.device("cuda")) == elsewhere
    moved = HybridStitchPipeline.from_pretrained(folder, dtype="auto", device="meta")
    assert (moved.device.type, moved.dtype, moved.small.dtype) == ("meta", elsewhere, elsewhere)


def test_most_numbers_of_the_large_model_decide(tiny: Path, tmp_path: Path) -> None:
    folder = stored(tiny, tmp_path / "pair", torch.bfloat16)
    weights = load_file(folder / HALF)
    first = next(name for name, value in weights.items() if value.ndim == 1)
    save_file(weights | {first: weights[first].float()}, folder / HALF, {"format": "pt"})
    small = folder / HALF.replace("transformer", "transformer_small")
    save_file({name: value.half() for name, value in load_file(small).items()}, small, {"format": "pt"})
    assert dtype.choose_dtype(find_files(folder, None, None), torch.device("cuda")) == torch.bfloat16


def test_the_embedded_pair_runs_in_float32_on_a_cpu_bit_for_bit(emoji: Path) -> None:
    automatic, explicit = (HybridStitchPipeline.from_pretrained(emoji, dtype=each) for each in (None, "float32"))
    latents = []
    for pipe in (automatic, explicit):
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        latents.append(pipe("a cat", num_inference_steps=2, generator=generator, output_type="latent").images)
    assert latents[0].dtype == torch.float32
    assert torch.equal(*latents)


@pytest.mark.parametrize("name", ["hybridstitch_handler", "plain_sd3_handler"])
@pytest.mark.parametrize(("setting", "expected"), [(None, "float32"), ("auto", "float32"), ("bfloat16", "bfloat16")])
def test_a_worker_names_its_dtype(
    tiny: Path, caplog: pytest.LogCaptureFixture, name: str, setting: str | None, expected: str
) -> None:
    caplog.set_level("INFO")
    handler = make_handler(name, tiny, {"handler": {"dtype": setting} if setting else {}})
    assert f"the models run in {expected} on cpu" in caplog.text
    assert ("dtype auto: float32" in caplog.text) == (setting != "bfloat16")
    assert handler.describe_handle()["dtype"] == expected
    answers, _ = call(handler, [{"body": QUICK | {"response_format": "json"}}])
    assert f'"dtype": "{expected}"' in answers[0].decode()
