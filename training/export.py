"""Write the trained pair as a folder that diffusers opens, half precision, safetensors only."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from training import models, stages
from training.autoencoder import build
from training.data import load_sprites
from training.train import load_average
from training.vocabulary import HELD_OUT

DESCRIPTION = (
    "A tiny Stable Diffusion 3 pair that draws one centred emoji on a plain background, 128 x 128 pixels: "
    "`transformer` is the large model, `transformer_small` the small one, all else is shared."
)
LICENCES = {
    "weights": "Apache-2.0",
    "pictures": "MIT, Fluent Emoji, Copyright (c) Microsoft Corporation",
    "names": "Unicode-3.0, emoji names, Copyright (c) Unicode, Inc.",
}


def export(runs: Path, data: Path, output: Path) -> None:
    """Collect the newest averaged weights of every part under `runs` into the folder `output`."""
    autoencoder = build(stages.projection(runs, load_sprites(data)))
    load_average(runs, "autoencoder", autoencoder)
    tokenizer = models.build_tokenizer()
    large, large_stage = stages.load_painter("large-fine", runs, tokenizer, resume=True)
    small, small_stage = stages.load_painter("small-fine", runs, tokenizer, resume=True)
    for painter in (large, small):
        models.set_grid(painter.transformer, models.GRID)
    pipeline = StableDiffusion3Pipeline(
        transformer=large.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=stages.SHIFTS["fine"]),
        vae=autoencoder,
        text_encoder=large.encoders[0],
        text_encoder_2=large.encoders[1],
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(output, safe_serialization=True)
    small.transformer.to(dtype=torch.float16).save_pretrained(output / "transformer_small")
    facts = {
        "format": 1,
        "name": "emoji",
        "description": DESCRIPTION,
        "default_size": [128, 128],
        "licences": LICENCES,
    }
    (output / "pair.json").write_text(json.dumps(facts, indent=2) + "\n")
    shutil.copyfile(HELD_OUT, output / "heldout_prompts.txt")
    for path in sorted(output.rglob("*.safetensors")):
        path.chmod(0o644)
        print(f"{path.relative_to(output)}: {path.stat().st_size / 1e6:.1f} MB")
    print(f"large from {large_stage}, small from {small_stage}")
