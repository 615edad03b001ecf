"""A pair without its weights, which shows what a loader would build before anything large is read."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import nn

from hybridstitch.base.paths import INDEX, SMALL_FOLDER
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.model.files import OPTIONAL, REQUIRED, ModelFiles

SMALL = ("diffusers", SD3Transformer2DModel.__name__)
_CLASSES = {
    "transformer": SD3Transformer2DModel.__name__,
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModelWithProjection",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


def build_skeleton(folder: Path, found: ModelFiles) -> tuple[StableDiffusion3Pipeline, SD3Transformer2DModel]:
    """The pipeline and the small transformer of a packed folder, with weights without values on the device `meta`.

    Args:
        folder: a packed pair.
        found: the files of the folder. Without a small transformer among them, the large one stands in for it.

    Raises:
        InvalidInput: names the path of every part that cannot be built, whose weights are missing or do not fit, or
            whose tokenizer does not fit its text encoder. Loaders fill missing weights with random numbers.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    parts = {name: index.get(name) or [None, None] for name in (*REQUIRED, *OPTIONAL) if name in index}
    if SMALL_FOLDER in found.tensors:
        parts[SMALL_FOLDER] = [*SMALL]
    problems: list[Problem] = []
    built: dict[str, Any] = {}
    for name, (library, kind) in parts.items():
        built[name] = None
        where = str(found.folder_of(name)) if library else name
        if kind != _CLASSES.get(name, kind):
            problems.append(Problem(where, f"a {_CLASSES[name]}", kind))
        elif library:
            try:
                built[name] = _build(folder / name, library, kind)
            except Exception as error:  # libraries raise anything; the message names the part
                problems.append(Problem(where, f"a {kind} that {library} can load", f"{type(error).__name__}: {error}"))
            else:
                problems += _weight_problems(name, where, built[name], found.tensors.get(name))
    problems += [problem for name in built for problem in _vocabulary_problems(name, built, found)]
    raise_problems(problems)
    small = built.pop(SMALL_FOLDER, built["transformer"])
    return StableDiffusion3Pipeline(**built), small


def _build(folder: Path, library: str, kind: str) -> Any:
    loader = getattr(importlib.import_module(library), kind)
    if not issubclass(loader, nn.Module):
        return loader.from_pretrained(folder)
    with torch.device("meta"):
        if library == "transformers":
            return loader(loader.config_class.from_pretrained(folder))
        return loader.from_config(loader.load_config(folder))


def _weight_problems(name: str, where: str, part: Any, held: Mapping[str, tuple[int, ...]] | None) -> list[Problem]:
    """Whether weights of a part are missing or have another shape."""
    if held is None or not isinstance(part, nn.Module) or hasattr(part.config, "quantization_config"):
        return []  # the shapes of quantised weights differ from those of the configuration
    tensors = part.state_dict(keep_vars=True)
    for tensor, value in tensors.items():
        if tensor in held and held[tensor] != tuple(value.shape):
            return [Problem(where, f"{tensor} of shape {tuple(value.shape)}, as in its config.json", held[tensor])]
    if name not in ("transformer", SMALL_FOLDER) and not held.keys() <= tensors.keys():
        return []  # an older file, whose names its loader converts
    present = {id(tensors[tensor]) for tensor in held if tensor in tensors}  # tied weights are stored once
    lost = [tensor for tensor, value in tensors.items() if id(value) not in present]
    return [Problem(where, f"all weights: {len(lost)} of {len(tensors)} are missing", lost[0])] if lost else []


def _vocabulary_problems(name: str, built: Mapping[str, Any], found: ModelFiles) -> list[Problem]:
    """Whether a tokenizer fits its text encoder.

    Tokens beyond the encoder's table, or positions beyond its places, would fail at every prompt.
    """
    encoder = built.get(name.replace("tokenizer", "text_encoder"))
    tokenizer = built[name]
    if not name.startswith("tokenizer") or tokenizer is None or encoder is None:
        return []
    where, problems = str(found.folder_of(name)), []
    if len(tokenizer) > encoder.config.vocab_size:
        problems.append(
            Problem(where, f"at most {encoder.config.vocab_size} tokens, as its text encoder", len(tokenizer))
        )
    places, longest = getattr(encoder.config, "max_position_embeddings", None), tokenizer.model_max_length
    if not isinstance(longest, int | float):
        problems.append(Problem(where, "a number as model_max_length in tokenizer_config.json", longest))
    elif places is not None and longest > places:
        expected = f"a model_max_length of at most {places} in tokenizer_config.json, as its text encoder"
        problems.append(Problem(where, expected, min(longest, 10**30)))
    return problems
