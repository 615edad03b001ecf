"""Loads a pair of SD3 models and checks that both can render parts of one picture."""

from __future__ import annotations

import inspect
import json
import logging
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

from hybridstitch.base.paths import INDEX, PAIR_FILE, SMALL_FOLDER
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.dtype import choose_dtype
from hybridstitch.model.files import LEFT_OUT, ModelFiles
from hybridstitch.model.flops import forward_flops
from hybridstitch.model.hub import download
from hybridstitch.model.lora import fuse
from hybridstitch.model.lora_files import fused_in
from hybridstitch.model.quantise import quantise, quantise_problems
from hybridstitch.model.size_limits import SizeLimits as SizeLimits
from hybridstitch.model.sources import source_problems

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
WORTHWHILE = 1.2
"""The least ratio of the FLOPs of a forward, large to small, that leaves anything to gain."""
CPU = torch.device("cpu")

logger = logging.getLogger(__name__)


def load_pair(
    folder: str | Path | None,
    large: str | Path | None,
    small: str | Path | None,
    dtype: torch.dtype | None = None,
    *,
    device: torch.device = CPU,
    variant: str | None = None,
    without: Collection[str] = (),
    quantised: Mapping[str, str | None] | None = None,
) -> tuple[StableDiffusion3Pipeline, SD3Transformer2DModel]:
    """The large model's pipeline, with all shared parts, and the small transformer.

    Args:
        folder: a packed pair; excludes `large` and `small`.
        large: an SD3 pipeline, as a folder or hub id.
        small: likewise; only its transformer is loaded, and its other configurations are compared where it has them.
        dtype: of the weights, which come from safetensors only. None: see `choose_dtype`.
        device: where the caller will move the models to.
        variant: loads the weights of this variant, such as "fp16", of the parts that have it.
        without: parts to leave out, see `LEFT_OUT`.
        quantised: kinds of the weights by part, see `quantise`.

    Raises:
        InvalidInput: names each field or file, for another combination of sources, for files that are absent or
            damaged, and for two models that do not fit.
    """
    raise_problems(source_problems(folder, large, small) + quantise_problems(quantised))
    found = find_files(folder, large, small, variant=variant, without=without)
    check_fit(found)
    dtype = dtype or choose_dtype(found, device)
    pipeline = load_pipeline(found, dtype)
    transformer = SD3Transformer2DModel.from_pretrained(
        found.folder_of(SMALL_FOLDER),
        dtype=dtype,
        use_safetensors=True,
        variant=variant if SMALL_FOLDER in found.with_variant else None,
    )
    models = {"large": pipeline.transformer, "small": transformer}
    fuse(models, fused_in(folder))
    quantise(models | {"text_encoder_3": pipeline.text_encoder_3}, quantised)
    if (ratio := cost_ratio(pipeline, transformer)) < WORTHWHILE:
        logger.warning(cost_sentence(ratio))
    return pipeline, transformer


def load_pipeline(found: ModelFiles, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """The pipeline of the large model, from the files that `find_files` found."""
    source = found.files[INDEX].parent
    # Each part with a variant comes from its own loader: that of whole pipelines searches for a variant in every file
    # name of a part, and raises IndexError for a name without a dot, such as LICENSE.
    parts = {
        name: getattr(import_module(library), kind).from_pretrained(
            source, subfolder=name, dtype=dtype, use_safetensors=True, variant=found.variant
        )
        for name, (library, kind) in found.parts.items()
        if name in found.with_variant
    }
    return StableDiffusion3Pipeline.from_pretrained(source, dtype=dtype, use_safetensors=True, **(found.absent | parts))


def find_files(
    folder: str | Path | None,
    large: str | Path | None,
    small: str | Path | None,
    *,
    variant: str | None = None,
    without: Collection[str] = (),
    plain: bool = False,
) -> ModelFiles:
    """The files that the loader reads. Those of hub ids are downloaded into the cache of huggingface_hub.

    Args:
        folder: a packed pair; None for `large` and `small`.
        large: a folder or hub id.
        small: a folder or hub id.
        variant: of the weights, such as "fp16".
        without: parts to leave out, see `LEFT_OUT`.
        plain: whether to find the files of the large model alone.

    Raises:
        InvalidInput: names each file that is absent or damaged.
    """
    unknown = [name for name in without if name not in LEFT_OUT]
    raise_problems([Problem("without", f"one of: {', '.join(LEFT_OUT)}", name) for name in unknown])
    found = ModelFiles(variant, without)

    def local(side: str | Path | None, field: str) -> Path:
        is_folder = field == "pair" or Path(str(side)).is_dir()
        return Path(str(side)) if is_folder else download(str(side), field, variant=variant, without=found.without)

    found.add_pipeline(local(large, "large") if folder is None else Path(folder))
    if not plain and folder is not None:
        found.add_part(SMALL_FOLDER, Path(folder, SMALL_FOLDER))
    elif not plain:
        found.add_part(SMALL_FOLDER, local(small, "small") / "transformer")
    found.finish()
    raise_problems(found.problems)
    return found


def check_fit(found: ModelFiles) -> None:
    """Raise InvalidInput, with field and both values, unless both models share latents, text and time.

    The small model's autoencoder and scheduler are compared if their configurations are there. They are not loaded.
    """
    configs = {part: _config(found.folder_of(part), part) for part in LOADERS}
    small = found.folder_of(SMALL_FOLDER)
    problems = _own_problems(configs)
    for part in LOADERS:
        folder = small if part == "transformer" else small.parent / part
        if part == "transformer" or (folder / LOADERS[part].config_name).is_file():
            problems += _differences(part, configs[part], _config(folder, part))
    raise_problems(problems)


def cost_ratio(pipeline: StableDiffusion3Pipeline, small: SD3Transformer2DModel) -> float:
    """FLOPs of a forward of the large model at the default size, over those of the small one."""
    tokens = (SizeLimits.of(pipeline, small).default[0] // pipeline.vae_scale_factor // pipeline.patch_size) ** 2
    words = pipeline.tokenizer_max_length
    large_cost, small_cost = (
        forward_flops(each.config, tokens, tokens, words) for each in (pipeline.transformer, small)
    )
    return large_cost / small_cost


def cost_sentence(ratio: float) -> str:
    """What a cost ratio means for the user."""
    words = f"a forward of the large model takes {ratio:.2f} times the FLOPs of the small one"
    if ratio >= WORTHWHILE:
        return words
    slower = "recipes of both are hardly faster, or slower, than the plain large model"
    return f"warning: {words}: {slower}; are the two the same, or exchanged?"


def _config(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a part as its class reads it, with the defaults of what an older diffusers left out."""
    loader = LOADERS[part]
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(loader.__init__).parameters.items()
        if parameter.default is not parameter.empty
    }
    try:
        written = loader.load_config(folder)
    except OSError as error:
        raise InvalidInput([Problem(str(folder), "a folder with a configuration of diffusers", str(error))]) from error
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
