"""Validation of arguments for what goes into the transformers: layers to skip, and the weight of LoRA adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hybridstitch.base.schema import plain
from hybridstitch.call.prompts import described
from hybridstitch.errors import Problem
from hybridstitch.model.parts import Parts
from hybridstitch.model.skip_layers import SkipLayers

LAYERS = "skip_guidance_layers"
ATTENTION = "joint_attention_kwargs"


def skip_layers_of(pair: Parts, given: Mapping[str, Any], problems: list[Problem]) -> dict[str, SkipLayers]:
    """Return the skip-layer guidance of each model that has it; adds to `problems`.

    Args:
        pair: The models.
        given: The arguments of the call by name.
        problems: Collects what is wrong.
    """
    numbers = {name: given[f"skip_layer_guidance_{name}"] for name in ("scale", "start", "stop")}
    for name, value in numbers.items():
        if not _is_number(value) or (name != "scale" and not 0 <= value <= 1):
            expected = "a finite number" if name == "scale" else "a number from 0 to 1, a share of the steps"
            problems.append(Problem(f"skip_layer_guidance_{name}", expected, value))
    asked = given[LAYERS]
    if asked is None:
        return {}
    counts = {name: getattr(pair, name).config.num_layers for name in ("large", "small")}
    if not isinstance(asked, Mapping):
        layers = _layers(LAYERS, asked, counts["large"], problems)
        named = {name: tuple(each for each in layers if each < count) for name, count in counts.items()}
    else:
        unknown = [name for name in asked if name not in counts]
        problems += [Problem(f"{LAYERS}.{name}", "large or small", described(asked[name])) for name in unknown]
        named = {
            name: _layers(f"{LAYERS}.{name}", asked[name], count, problems)
            for name, count in counts.items()
            if name in asked
        }
    return {name: SkipLayers(layers, **numbers) for name, layers in named.items() if layers}


def lora_scale_of(given: Mapping[str, Any], problems: list[Problem]) -> float | None:
    """Return the `scale` of `joint_attention_kwargs`, or None; adds to `problems`."""
    value = given[ATTENTION]
    if value is None or (isinstance(value, Mapping) and not value):
        return None
    expected = '{"scale": a finite number}, the weight of LoRA adapters: nothing else has an effect here'
    if not isinstance(value, Mapping) or set(value) != {"scale"} or not _is_number(plain(value["scale"])):
        problems.append(Problem(ATTENTION, expected, described(value)))
        return None
    return float(plain(value["scale"]))


def _layers(field: str, value: Any, count: int, problems: list[Problem]) -> tuple[int, ...]:
    listed = [plain(each) for each in value] if isinstance(value, list | tuple | range) else None
    if listed is None or not all(type(each) is int and 0 <= each < count for each in listed):
        problems.append(Problem(field, f"a list of layers, from 0 to {count - 1}", described(value)))
        return ()
    return tuple(sorted(set(listed)))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
