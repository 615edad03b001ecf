"""Write the trained pair as a folder that diffusers opens, half precision, safetensors only."""

import json
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from hybridstitch.base.paths import CALIBRATION_FILE, HELD_OUT_FILE
from training import models, stages
from training.autoencoder import build
from training.scenes import Library, SceneSource
from training.train import load_average
from training.vocabulary import caption, held_out

DESCRIPTION = (
    "A tiny Stable Diffusion 3 pair that draws emoji, one or two in three styles on coloured backgrounds, 128 x 128: "
    "`transformer` is the large model, `transformer_small` the small one, all else is shared."
)
CALIBRATION = 48
"""Prompts that recipes are tuned on; other scenes than those that evaluate, and than any that is held out."""
LICENCES = {
    "weights": "Apache-2.0",
    "fluent emoji, 3d and flat": "MIT, Copyright (c) Microsoft Corporation",
    "noto emoji": "Apache-2.0, Copyright Google Inc.",
    "names and keywords": "Unicode-3.0, Copyright (c) Unicode, Inc.",
}


def export(runs: Path, library: Library, output: Path) -> None:
    """Collect the newest averaged weights of every part under `runs` into the folder `output`.

    Where `runs` holds the small transformer alone, all else that is in `output` stays as it is.
    """
    small, small_stage = stages.newest_transformer("small", runs)
    if not stages.has_large(runs):
        _write_small(small, output)
        _list_weights(output / "transformer_small")
        print(f"small from {small_stage}, all else as it was")
        return
    autoencoder = build(stages.projection(runs, library))
    load_average(runs, "autoencoder", autoencoder)
    tokenizer = models.load_tokenizer(runs, library)
    encoders = stages.load_encoders(runs, models.build_text_encoders(tokenizer))
    large, large_stage = stages.newest_transformer("large", runs)
    models.set_grid(large, models.GRID)
    pipeline = StableDiffusion3Pipeline(
        transformer=large,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=stages.SHIFTS["fine"]),
        vae=autoencoder,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(output)
    _write_small(small, output)
    facts = {
        "format": 1,
        "name": "emoji",
        "description": DESCRIPTION,
        "default_size": [128, 128],
        "licences": LICENCES,
    }
    (output / "pair.json").write_text(json.dumps(facts, indent=2) + "\n")
    (output / HELD_OUT_FILE).write_text("".join(f"{caption(scene)}\n" for scene in held_out()))
    (output / CALIBRATION_FILE).write_text("".join(f"{prompt}\n" for prompt in calibration_prompts(library)))
    _list_weights(output)
    print(f"large from {large_stage}, small from {small_stage}")


def _write_small(small: SD3Transformer2DModel, output: Path) -> None:
    small.to(dtype=torch.float16).save_pretrained(output / "transformer_small")


def _list_weights(folder: Path) -> None:
    for path in sorted(folder.rglob("*.safetensors")):
        path.chmod(0o644)  # both libraries leave them to their owner alone
        print(f"{path.relative_to(folder)}: {path.stat().st_size / 1e6:.1f} MB")


def calibration_prompts(library: Library) -> list[str]:
    """Plain captions of `CALIBRATION` training scenes, always the same."""
    source = SceneSource(library, seed=3)
    return [caption(source()[0]) for _ in range(CALIBRATION)]
