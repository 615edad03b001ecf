"""Adds LoRA adapters to the files of an archive, and checks that each fits its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.base.extras import require
from hybridstitch.errors import Problem, collected, raise_problems
from hybridstitch.model.files import ModelFiles
from hybridstitch.model.lora_files import (
    Fused,
    check_lora,
    fused_in,
    named_file,
    named_in,
    scale_problems,
)

if TYPE_CHECKING:
    from torch import nn


def add_loras(
    found: ModelFiles,
    pair: str | Path | None,
    fused: Sequence[Fused],
    named: Mapping[str, Mapping[str, Any]],
    plain: bool,
) -> list[Fused]:
    """Add the adapters of the options, of the settings and of the pair's folder.

    Args:
        found: The files of the archive's pair folder.
        pair: The folder of a packed pair, which may have adapters.
        fused: Those that the worker adds to the weights, after those of the pair.
        named: Those that a request may name: by name and model, the file. They replace the pair's.
        plain: Whether the archive has the large model alone.

    Returns:
        All that the worker adds to the weights, with their files in the archive, for `write_fused`.

    Raises:
        InvalidInput: An adapter of the small model with `plain`, or a wrong scale.
    """
    problems = [problem for each in fused for problem in scale_problems(f"lora_{each.model}", each.scale)]
    if plain:
        expected = "nothing: --plain packs the large model alone"
        problems += [Problem("lora_small", expected, each.file) for each in fused if each.model == "small"]
    raise_problems(problems)
    of_pair = {name: dict(files) for name, files in named_in(pair).items()}
    files = {named_file(*key): path for key, path in _flat(of_pair, plain)}
    files |= {named_file(*key): path for key, path in _flat(named, plain)}
    listed = []
    for number, each in enumerate([*fused_in(pair), *fused], 1):
        if each.model == "large" or not plain:
            listed.append(replace(each, file=f"fused/{each.model}-{number}.safetensors"))
            files[listed[-1].file] = Path(each.file)
    if files:
        require("peft", "lora")
    raise_problems([Problem(str(path), "an existing file", None) for path in files.values() if not path.is_file()])
    found.files.update(files)
    return listed


def check_loras(found: ModelFiles, models: Mapping[str, nn.Module]) -> list[str]:
    """Check every adapter in an archive against its model, and return the names that a request may use.

    Raises:
        InvalidInput: Under the path of each file that does not fit.
    """
    problems: list[Problem] = []
    names = set()
    for name, path in found.files.items():
        folder, _, rest = name.partition("/")
        if folder not in ("lora", "fused"):
            continue
        model = Path(rest).stem.partition("-")[0]
        with collected(problems):
            check_lora(path, models[model], model)
        if folder == "lora":
            names.add(rest.partition("/")[0])
    raise_problems(problems)
    return sorted(names)


def loras_of(section: Mapping[str, Any], config: Path) -> dict[str, dict[str, Path]]:
    """The adapters of the section `handler:`, with paths relative to the file of the settings."""
    named = section.get("loras") or {}
    return {name: {model: config.parent / file for model, file in files.items()} for name, files in named.items()}


def _flat(named: Mapping[str, Mapping[str, Any]], plain: bool) -> list[tuple[tuple[str, str], Path]]:
    return [
        ((name, model), Path(path))
        for name, files in named.items()
        for model, path in files.items()
        if model == "large" or not plain
    ]
