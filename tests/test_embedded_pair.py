"""The embedded pair is what docs/pair.md says: small files, no pickles, backgrounds as asked for, worth stitching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hybridstitch import HybridStitchPipeline
from hybridstitch.base.prompt_files import read_prompts
from hybridstitch.measure.pixels import psnr
from training.evaluate import open_pair
from training.speed import forward_gflops
from training.velocities import velocity_errors
from training.vocabulary import COLOURS

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pictures(emoji: Path, emoji_pipe: HybridStitchPipeline) -> dict[str, dict[str, np.ndarray]]:
    """Pictures by prompt and recipe, in 0..1, of held-out prompts, each with a seed of its own."""
    prompts = read_prompts(emoji / "heldout_prompts.txt", 6)
    return {
        prompt: {
            recipe: emoji_pipe(
                prompt,
                recipe=recipe,
                guidance_scale=4.5,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            ).images[0]
            for recipe in ("large", "hybridstitch", "small")
        }
        for seed, prompt in enumerate(prompts)
    }


def test_weights_are_safetensors_and_small(emoji):
    files = [path for path in emoji.rglob("*") if path.is_file()]
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 5
    assert all(path.stat().st_size < 50 * MEGABYTE for path in weights)
    assert sum(path.stat().st_size for path in files) < 100 * MEGABYTE
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]


@pytest.mark.slow
def test_the_background_has_the_colour_asked_for(pictures):
    for prompt, drawn in pictures.items():
        colours = prompt.split(" on ")[1].split(" to ")
        for rows, colour in ((drawn["large"][:4], colours[0]), (drawn["large"][-4:], colours[-1])):
            edge = np.median(rows.reshape(-1, 3), axis=0)
            nearest = min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) / 255 - edge).sum())
            assert np.abs(edge - np.array(COLOURS[colour]) / 255).max() < 0.15, f"{prompt}: an edge looks {nearest}"


def fidelity(pictures: dict[str, dict[str, np.ndarray]], recipe: str) -> float:
    """Mean PSNR in dB to the large model's pictures."""
    return float(np.mean([psnr(drawn[recipe], drawn["large"]) for drawn in pictures.values()]))


@pytest.mark.slow
def test_stitching_stays_closer_to_the_large_model_than_the_small_one_is(pictures):
    assert fidelity(pictures, "hybridstitch") > fidelity(pictures, "small") + 1


@pytest.mark.slow
def test_the_small_model_is_nearly_as_good_as_the_large_one(emoji, pictures):
    assert fidelity(pictures, "small") > 19
    drawn = np.stack([each["large"] for each in pictures.values()])
    found = velocity_errors(open_pair(emoji), 2 * torch.from_numpy(drawn).permute(0, 3, 1, 2) - 1, [*pictures])
    assert found["small"]["training"] < 1.2 * found["large"]["training"]


def test_the_large_model_costs_as_much_more_as_that_of_sd35(emoji_pipe):
    assert 2.6 < forward_gflops(emoji_pipe.large) / forward_gflops(emoji_pipe.small) < 3.0
