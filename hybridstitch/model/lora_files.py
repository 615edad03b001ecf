"""The files of LoRA adapters: checks that one fits a transformer, before any of its weights are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems

if TYPE_CHECKING:
    from torch import nn

MODELS = ("large", "small")
"""The models of a pair that an adapter may be for."""
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""Regular expression of an adapter's name."""
NAME_WORDS = "a name of up to 64 letters, digits, - and _ that begins with a letter or digit"
MOST_SCALE = 10
"""The largest scale, up and down."""
FUSED_FILE = "lora.json"
"""The file in a packed pair that lists the adapters to add to the weights."""
NAMED_FOLDER = "lora"
"""The folder in a packed pair with the adapters that a generation may name: NAME/large.safetensors and so on."""
_TENSOR = re.compile(r"(?:transformer\.)?(.+)\.(?:(lora_A|lora\.down)|(lora_B|lora\.up))\.(weight|bias)")


@dataclass(frozen=True)
class Fused:
    """An adapter that is added to the weights of a model when they are loaded.

    Attributes:
        model: "large" or "small".
        file: Path, in a packed pair relative to its folder.
        scale: Factor of its weights.
    """

    model: str
    file: str
    scale: float = 1.0


def fused_in(folder: str | Path | None) -> list[Fused]:
    """The adapters that a packed pair lists, with whole paths; none without the file. Raises InvalidInput."""
    path = Path(folder or "", FUSED_FILE)
    if folder is None or not path.is_file():
        return []
    try:
        listed = [Fused(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
        return [Fused(each.model, str(path.parent / each.file), float(each.scale)) for each in listed]
    except (OSError, ValueError, TypeError) as error:
        expected = f"a list of adapters as `hybridstitch pack` writes it ({error})"
        raise InvalidInput([Problem(str(path), expected, "another content")]) from error


def read_fused(model: str, text: str) -> Fused:
    """An adapter as an option names it: FILE, or FILE:SCALE. Raises InvalidInput for a wrong scale."""
    file, colon, scale = text.rpartition(":")
    if not colon or Path(text).is_file():
        return Fused(model, text)
    try:
        return Fused(model, file, float(scale))
    except ValueError:
        raise InvalidInput([Problem(f"lora_{model}", "FILE or FILE:SCALE, the scale a number", text)]) from None


def named_file(name: str, model: str) -> str:
    """Where a packed pair has the adapter of this name for a model, relative to its folder."""
    return f"{NAMED_FOLDER}/{name}/{model}.safetensors"


def named_in(folder: str | Path | None) -> dict[str, dict[str, Path]]:
    """For each adapter of a packed pair that a generation may name, its file by model."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(Path(folder, NAMED_FOLDER).glob("*/*")) if folder is not None else []:
        raise_problems(name_problems(str(path.parent), path.parent.name))
        if path.stem not in MODELS:
            raise InvalidInput([Problem(str(path), "large.safetensors or small.safetensors", path.name)])
        found.setdefault(path.parent.name, {})[path.stem] = path
    return found


def write_fused(folder: Path, fused: Iterable[Fused]) -> None:
    """Write the list for `fused_in`; no file for an empty one."""
    listed = [asdict(each) for each in fused]
    if listed:
        (folder / FUSED_FILE).write_text(json.dumps(listed, indent=2), encoding="utf-8")


def scale_problems(field: str, scale: Any) -> list[Problem]:
    """What is wrong with the scale of an adapter."""
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    fine = is_number and -MOST_SCALE <= scale <= MOST_SCALE
    return [] if fine else [Problem(field, f"a number within {-MOST_SCALE}..{MOST_SCALE}", scale)]


def name_problems(field: str, name: Any) -> list[Problem]:
    """What is wrong with the name of an adapter."""
    fine = isinstance(name, str) and re.fullmatch(NAME, name)
    return [] if fine else [Problem(field, NAME_WORDS, name)]


def acting_scales(scales: Mapping[str, float]) -> dict[str, float]:
    """The scales in the order of their names, without those that are 0."""
    return {name: float(scale) for name, scale in sorted(scales.items()) if scale}


def lora_problems(wanted: Any, known: list[str], field: str = "lora") -> list[Problem]:
    """What is wrong with the adapters and scales that a generation names. known: the names of all adapters."""
    if not isinstance(wanted, Mapping):
        return [Problem(field, "an object of adapters and their scales, such as {NAME: 0.8}", wanted)]
    problems = []
    for name, scale in wanted.items():
        if name in known:
            problems += scale_problems(f"{field}.{name}", scale)
        else:
            expected = one_of(known, name) if known else "no adapter: this pipeline has none"
            problems.append(Problem(f"{field}.{str(name)[:80]}", expected, scale))
    return problems


def check_lora(path: str | Path, transformer: nn.Module, model: str) -> None:
    """Check by the header of a file that it is an adapter of this transformer.

    Args:
        path: The file.
        transformer: The model, perhaps without its weights.
        model: "large" or "small", for messages.

    Raises:
        InvalidInput: Under the path of the file: it is no safetensors file, no LoRA, one of another model, or has
            weights that this project would ignore.
    """
    shapes = _read_shapes(Path(path))
    layers = {name: module for name, module in transformer.named_modules() if hasattr(module, "weight")}
    problem = _first_problem(shapes, layers, model)
    raise_problems([Problem(str(path), *problem)] if problem else [])


def prefix_of(names: Iterable[str]) -> str | None:
    """What the names of the tensors begin with, as diffusers' loader takes it."""
    return "transformer" if any(name.startswith("transformer.") for name in names) else None


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if not path.is_file():
        raise InvalidInput([Problem(str(path), "an existing file", None)])
    if path.suffix != ".safetensors":
        expected = "a .safetensors file: loading another format can run code in it"
        raise InvalidInput([Problem(str(path), expected, path.name)])
    try:
        with safe_open(path, "np") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidInput([Problem(str(path), "a complete safetensors file", str(error))]) from error


def _first_problem(
    shapes: Mapping[str, tuple[int, ...]], layers: Mapping[str, nn.Module], model: str
) -> tuple[str, Any] | None:
    """What was expected and what is there, of the first tensor that does not fit."""
    if not any("lora" in name for name in shapes):
        return "a LoRA, with tensors such as transformer_blocks.0.attn.to_q.lora_A.weight", next(iter(shapes), None)
    if encoders := [name for name in shapes if name.startswith("text_encoder")]:
        return "weights of the transformer alone: both models share the text encoders", encoders[0]
    pairs: dict[str, set[str]] = {}
    for name, shape in shapes.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            return "only tensors lora_A and lora_B under diffusers' names", name
        layer, down, _, kind = match.groups()
        if layer not in layers:
            return f"layers of the {model} model", layer
        weight: Any = layers[layer].weight
        width, side = (weight.shape[1], 1) if down else (weight.shape[0], 0)
        if kind == "weight" and (len(shape) != weight.dim() or shape[side] != width):
            return f"a LoRA of the {model} model, whose {layer} has width {width}", f"{name} of shape {list(shape)}"
        pairs.setdefault(layer, set()).add("lora_A" if down else "lora_B")
    lacking = next((layer for layer, found in pairs.items() if len(found) < 2), None)
    return ("lora_A and lora_B of every layer", f"one of {lacking} alone") if lacking else None
