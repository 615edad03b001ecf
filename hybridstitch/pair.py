"""A pair of SD3 models: loading it, and checking that the two can stand in for each other inside one picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from hybridstitch.errors import Problem, raise_if
from hybridstitch.size_limits import SizeLimits as SizeLimits

SMALL_FOLDER = "transformer_small"
"""Where a packed pair keeps its small transformer, beside the folders of the large model's SD3 pipeline."""

PAIR_FILE = "pair.json"
"""What a packed pair says about itself."""

# Latents, text and time must mean the same to both models.
_SHARED: dict[str, tuple[str, ...]] = {
    "transformer": (
        "in_channels",
        "out_channels",
        "patch_size",
        "joint_attention_dim",
        "pooled_projection_dim",
    ),
    "vae": ("_class_name", "latent_channels", "scaling_factor", "shift_factor", "block_out_channels"),
    "scheduler": ("_class_name", "prediction_type", "shift", "use_dynamic_shifting", "num_train_timesteps"),
}
_LOADERS = {
    "transformer": SD3Transformer2DModel,
    "vae": AutoencoderKL,
    "scheduler": FlowMatchEulerDiscreteScheduler,
}


def load_pair(
    folder: str | Path | None,
    large: str | Path | None,
    small: str | Path | None,
    dtype: torch.dtype,
    variant: str | None = None,
) -> tuple[StableDiffusion3Pipeline, SD3Transformer2DModel]:
    """The large model's pipeline, with all shared parts, and the small transformer.

    Either `folder`, a packed pair, or `large` and `small`, two SD3 pipelines as folders or hub ids. Weights come
    from safetensors only. Raises ValueError if neither is given or both are, and InvalidInput, naming each field
    with both values, if the two do not fit.
    """
    if (folder is None) == (large is None and small is None) or (large is None) != (small is None):
        raise ValueError("pair: expected either a packed pair folder, or large= and small=")
    if folder is None:
        check_folders(large, small)
    else:
        check_packed(folder)
    source, small_source, subfolder = (
        (large, small, "transformer") if folder is None else (folder, folder, SMALL_FOLDER)
    )
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        source, dtype=dtype, use_safetensors=True, variant=variant, **absent_parts(source)
    )
    small_transformer = SD3Transformer2DModel.from_pretrained(
        small_source, subfolder=subfolder, dtype=dtype, use_safetensors=True, variant=variant
    )
    return pipeline, small_transformer


def absent_parts(source: str | Path | None) -> dict[str, None]:
    """The third text encoder and its tokenizer as None, if the folder has none: diffusers wants to be told."""
    index = StableDiffusion3Pipeline.load_config(source)
    parts = ("text_encoder_3", "tokenizer_3")
    return {part: None for part in parts if (index.get(part) or [None])[0] is None}


def check_folders(large: str | Path | None, small: str | Path | None) -> None:
    """Raise InvalidInput, naming field and both values, unless two SD3 pipelines can share latents, text and time."""
    ours, theirs = ({part: loader.load_config(side, subfolder=part) for part, loader in _LOADERS.items()}
                    for side in (large, small))  # fmt: skip
    raise_if(
        _own_problems(ours) + [problem for part in ours for problem in _differences(part, ours[part], theirs[part])]
    )


def check_packed(folder: str | Path) -> None:
    """The same for a packed pair, where only the transformers can differ."""
    missing = [name for name in (*_LOADERS, SMALL_FOLDER) if not (Path(folder) / name).is_dir()]
    raise_if([Problem(f"{folder}/{name}", "a folder of a packed pair", "nothing") for name in missing])
    configs = {part: loader.load_config(folder, subfolder=part) for part, loader in _LOADERS.items()}
    small = SD3Transformer2DModel.load_config(folder, subfolder=SMALL_FOLDER)
    raise_if(_own_problems(configs) + _differences("transformer", configs["transformer"], small))


def _own_problems(configs: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """What the loop cannot work with, in one pipeline by itself."""
    transformer, vae, scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
    euler = FlowMatchEulerDiscreteScheduler.__name__
    found = []
    if transformer.get("in_channels") != vae.get("latent_channels"):
        expected = f"{transformer.get('in_channels')}, the transformer's in_channels"
        found.append(Problem("vae.latent_channels", expected, vae.get("latent_channels")))
    if scheduler.get("_class_name") != euler:
        found.append(
            Problem("scheduler._class_name", f"{euler}: flow matching, first order", scheduler.get("_class_name"))
        )
    if scheduler.get("use_dynamic_shifting"):
        found.append(Problem("scheduler.use_dynamic_shifting", "false: SD3 has one shift for all sizes", True))
    return found


def describe_pair(folder: str | Path) -> dict[str, Any]:
    """What `pair.json` says about a packed pair; empty if there is none."""
    path = Path(folder) / PAIR_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def _differences(part: str, large: Mapping[str, Any], small: Mapping[str, Any]) -> list[Problem]:
    return [
        Problem(f"{part}.{name}", f"{large.get(name)!r}, as the large model has it", small.get(name))
        for name in _SHARED[part]
        if large.get(name) != small.get(name)
    ]
