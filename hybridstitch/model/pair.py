"""Loads a pair of SD3 models and checks that both can render parts of one picture."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from hybridstitch.base.paths import HUB_ID, INDEX, PAIR_FILE, SMALL_FOLDER
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.files import ModelFiles
from hybridstitch.model.size_limits import SizeLimits as SizeLimits

SHARED: dict[str, tuple[str, ...]] = {
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
"""Configuration that both models must share, so that latents, text and time mean the same to both."""
LOADERS = {
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

    Args:
        folder: a packed pair; excludes `large` and `small`.
        large: an SD3 pipeline, as a folder or hub id.
        small: likewise.
        dtype: of the weights, which come from safetensors only.
        variant: loads the weights of this variant, such as "fp16", of the parts that have it.

    Raises:
        InvalidInput: names each field or file, for another combination of sources, for files that are absent or
            damaged, and for two models that do not fit.
    """
    check_source(folder, large, small)
    found = find_files(folder, large, small, variant)
    if folder is None:
        check_folders(large, small)
    else:
        check_packed(folder)
    source, small_source, subfolder = (
        (large, small, "transformer") if folder is None else (folder, folder, SMALL_FOLDER)
    )
    parts = _with_variant(source, found.with_variant - {SMALL_FOLDER}, dtype, variant) if _is_local(source) else {}
    of_pipeline = None if _is_local(source) else variant
    of_small = variant if not _is_local(small_source) or SMALL_FOLDER in found.with_variant else None
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        source, dtype=dtype, use_safetensors=True, variant=of_pipeline, **absent_parts(source), **parts
    )
    small_transformer = SD3Transformer2DModel.from_pretrained(
        small_source, subfolder=subfolder, dtype=dtype, use_safetensors=True, variant=of_small
    )
    return pipeline, small_transformer


def _with_variant(
    source: str | Path | None, parts: Collection[str], dtype: torch.dtype, variant: str | None
) -> dict[str, Any]:
    """These parts of a folder with the weights of a variant, each from its own loader.

    The loader of whole pipelines searches for a variant in every file name of a part, and raises IndexError for a name
    without a dot, such as LICENSE.
    """
    classes = {name: entry for name, entry in StableDiffusion3Pipeline.load_config(source).items() if name in parts}
    return {
        name: getattr(import_module(library), kind).from_pretrained(
            source, subfolder=name, dtype=dtype, use_safetensors=True, variant=variant
        )
        for name, (library, kind) in classes.items()
    }


def check_source(folder: str | Path | None, large: str | Path | None, small: str | Path | None) -> None:
    """Raise InvalidInput unless the source is a folder of a packed pair, or a large and a small model."""
    if folder is None:
        sides = {"large": large, "small": small}
        if large is None and small is None:
            raise InvalidInput([Problem("pair", "the folder of a packed pair, or large and small", None)])
        raise_problems([problem for name, side in sides.items() for problem in _side_problems(name, side)])
        return
    if large is not None or small is not None:
        raise InvalidInput([Problem("pair", "either a packed pair, or large and small", str(folder))])
    two = "for two models give large= and small=, as folders or hub ids"
    if not Path(folder).is_dir():
        raise InvalidInput([Problem("pair", f"the folder of a packed pair (no such folder); {two}", str(folder))])
    if (Path(folder) / INDEX).is_file() and not (Path(folder) / SMALL_FOLDER).is_dir():
        expected = f"the folder of a packed pair, with {SMALL_FOLDER}; this one holds one model: {two}"
        raise InvalidInput([Problem("pair", expected, str(folder))])


def _side_problems(name: str, side: str | Path | None) -> list[Problem]:
    if side is None:
        return [Problem(name, "a folder or hub id: without a pair, both large and small", None)]
    if _is_local(side) or (isinstance(side, str) and HUB_ID.fullmatch(side)):
        return []
    return [Problem(name, "a folder (no such folder) or a hub id, OWNER/NAME", str(side))]


def find_files(
    folder: str | Path | None,
    large: str | Path | None,
    small: str | Path | None,
    variant: str | None = None,
    plain: bool = False,
) -> ModelFiles:
    """The files that the loader reads, of those sides that are folders.

    Args:
        folder: a packed pair; None for `large` and `small`.
        large: a folder or hub id.
        small: a folder or hub id.
        variant: of the weights, such as "fp16".
        plain: whether to find the files of the large model alone.

    Raises:
        InvalidInput: names each file that is absent or damaged.
    """
    found = ModelFiles(variant)
    base = large if folder is None else folder
    if base is not None and _is_local(base):
        found.add_pipeline(Path(base))
    if not plain and folder is not None:
        found.add_part(SMALL_FOLDER, Path(folder, SMALL_FOLDER))
    elif not plain and small is not None and _is_local(small):
        found.add_part(SMALL_FOLDER, Path(small, "transformer"))
    if found.files:
        found.finish()
    raise_problems(found.problems)
    return found


def _is_local(side: str | Path | None) -> bool:
    return side is not None and Path(side).is_dir()


def absent_parts(source: str | Path | None) -> dict[str, None]:
    """The third text encoder and its tokenizer as None if the folder has none: diffusers requires the arguments."""
    index = StableDiffusion3Pipeline.load_config(source)
    parts = ("text_encoder_3", "tokenizer_3")
    return {part: None for part in parts if (index.get(part) or [None])[0] is None}


def check_folders(large: str | Path | None, small: str | Path | None) -> None:
    """Raise InvalidInput, with field and both values, unless two SD3 pipelines share latents, text and time."""
    ours, theirs = ({part: _config(part, side) for part in LOADERS} for side in (large, small))
    raise_problems(
        _own_problems(ours) + [problem for part in ours for problem in _differences(part, ours[part], theirs[part])]
    )


def check_packed(folder: str | Path) -> None:
    """Raise InvalidInput as `check_folders` does, for a packed pair, where only the transformers can differ."""
    configs = {part: _config(part, folder) for part in LOADERS}
    small = _config("transformer", folder, SMALL_FOLDER)
    raise_problems(_own_problems(configs) + _differences("transformer", configs["transformer"], small))


def _config(part: str, side: str | Path | None, subfolder: str | None = None) -> dict[str, Any]:
    """The configuration of a part as its class reads it, with the defaults of what an older diffusers left out."""
    loader = LOADERS[part]
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(loader.__init__).parameters.items()
        if parameter.default is not parameter.empty
    }
    try:
        written = loader.load_config(side, subfolder=subfolder or part)
    except OSError as error:
        if not _is_local(side):
            raise
        where = str(Path(side or "", subfolder or part))
        raise InvalidInput([Problem(where, "a folder with a configuration of diffusers", str(error))]) from error
    config = {"_class_name": loader.__name__, **defaults, **written}
    if part == "transformer" and config["out_channels"] is None:
        config["out_channels"] = config["in_channels"]
    return {name: [*value] if isinstance(value, tuple) else value for name, value in config.items()}


def _own_problems(configs: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """What the loop does not support in one pipeline by itself."""
    transformer, vae, scheduler = configs["transformer"], configs["vae"], configs["scheduler"]
    euler = FlowMatchEulerDiscreteScheduler.__name__
    found = []
    if transformer["in_channels"] != vae["latent_channels"]:
        expected = f"{transformer['in_channels']}, the transformer's in_channels"
        found.append(Problem("vae.latent_channels", expected, vae["latent_channels"]))
    if scheduler["_class_name"] != euler:
        expected = f"{euler}: flow matching, first order"
        found.append(Problem("scheduler._class_name", expected, scheduler["_class_name"]))
    if scheduler["use_dynamic_shifting"]:
        found.append(Problem("scheduler.use_dynamic_shifting", "false: SD3 has one shift for all sizes", True))
    return found


def describe_pair(folder: str | Path) -> dict[str, Any]:
    """The content of `pair.json` in a packed pair; empty if there is none."""
    path = Path(folder) / PAIR_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


def _differences(part: str, large: Mapping[str, Any], small: Mapping[str, Any]) -> list[Problem]:
    return [
        Problem(f"{part}.{name}", f"{large.get(name)!r}, as the large model has it", small.get(name))
        for name in SHARED[part]
        if large.get(name) != small.get(name)
    ]
