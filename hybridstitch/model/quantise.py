"""Quantised weights: int8 for the linear layers of a part, by torchao as diffusers applies it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hybridstitch.base.extras import extra
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import Problem, raise_problems

PARTS = ("large", "small", "text_encoder_3")
"""The parts of a pair whose weights may be quantised."""
KINDS = ("int8",)
"""int8: one scale for each row of a weight; the layers compute in the dtype of the pair."""


def quantise_problems(wanted: Any, field: str = "quantise") -> list[Problem]:
    """What is wrong with a mapping of parts to kinds, where None means "as stored"."""
    if wanted is None:
        return []
    if not isinstance(wanted, Mapping):
        return [Problem(field, f"a mapping of parts, such as {PARTS[0]}: {KINDS[0]}", wanted)]
    problems = []
    for part, kind in wanted.items():
        if part not in PARTS:
            problems.append(Problem(f"{field}.{part}", one_of(PARTS, part), kind))
        elif kind is not None and kind not in KINDS:
            problems.append(Problem(f"{field}.{part}", one_of([*KINDS, "null"], kind), kind))
    return problems


def absence_problems(
    wanted: Mapping[str, Any] | None, parts: Mapping[str, Any], field: str = "quantise"
) -> list[Problem]:
    """A problem for each part to quantise that the pair does not have."""
    return [
        Problem(f"{field}.{part}", f"nothing: the pair has no {part}", kind)
        for part, kind in (wanted or {}).items()
        if kind is not None and part in parts and parts[part] is None
    ]


def quantise(parts: Mapping[str, nn.Module | None], wanted: Mapping[str, str | None] | None) -> None:
    """Quantise the weights of the linear layers in place. Layers that are quantised already stay as they are.

    Args:
        parts: The parts by their names in `PARTS`; None for one that the pair does not have.
        wanted: The kind for each part. Names that are not in `parts` have no effect.

    Raises:
        InvalidInput: A part or a kind is unknown, or the pair does not have the part.
        MissingExtra: torchao is not installed.
        RuntimeError: torchao cannot quantise with this version of torch, or on this machine.
    """
    raise_problems(quantise_problems(wanted) or absence_problems(wanted, parts))
    for name, kind in (wanted or {}).items():
        part = parts.get(name)
        if kind is not None and part is not None:
            _to_int8(part)


def is_quantised(layer: nn.Module) -> bool:
    """Whether the weight of a layer holds quantised numbers. Its dtype is that of the values they stand for."""
    return hasattr(getattr(layer, "weight", None), "qdata")


def saving_problems(encoder: nn.Module | None) -> list[Problem]:
    """What keeps a pair from being saved: transformers cannot save a text encoder that `quantise` changed."""
    if encoder is None or not any(is_quantised(each) for each in encoder.modules()):
        return []
    return [Problem("text_encoder_3", "weights as stored, where a pair is saved: load it without quantise", "int8")]


def stored_bytes(part: nn.Module) -> int:
    """Bytes of the parameters and buffers of a part, quantised ones as they are stored."""
    found = 0
    for tensor in (*part.parameters(), *part.buffers()):
        inner = [getattr(tensor, name) for name in ("qdata", "scale") if hasattr(tensor, name)] or [tensor]
        found += sum(each.numel() * each.element_size() for each in inner)
    return found


def plain_values(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a parameter, also of a quantised one."""
    return tensor.dequantize() if hasattr(tensor, "qdata") else tensor


def _to_int8(part: nn.Module) -> None:
    with extra("quantise"):
        import torchao
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    try:
        quantize_(part, Int8WeightOnlyConfig(), lambda each, _: isinstance(each, nn.Linear) and not is_quantised(each))
    except Exception as error:
        versions = f"torchao {torchao.__version__} with torch {torch.__version__}"
        raise RuntimeError(f"quantise: {versions} cannot quantise weights to int8 here: {error}") from error
    if hasattr(part, "register_to_config"):
        _describe(part, Int8WeightOnlyConfig())


def _describe(model: Any, kind: Any) -> None:
    """Let diffusers know what the weights are, so that it saves them and their configuration."""
    from diffusers import TorchAoConfig
    from diffusers.quantizers import DiffusersAutoQuantizer

    model.hf_quantizer = DiffusersAutoQuantizer.from_config(TorchAoConfig(kind), pre_quantized=False)
    model.hf_quantizer.validate_environment()
    model.register_to_config(quantization_config=model.hf_quantizer.quantization_config)
