"""The dtype of weights where none is set: as the files are stored, or float32 on a CPU with room for it."""

from __future__ import annotations

import logging

import torch

from hybridstitch.model.files import ModelFiles
from hybridstitch.model.free_memory import free_memory
from hybridstitch.model.memory import LARGE, MemoryPlan

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Dtypes in which models run as they are stored."""

logger = logging.getLogger(__name__)


def choose_dtype(found: ModelFiles, device: torch.device, free: int | None = None) -> torch.dtype:
    """The dtype for the weights of these files on a device, also logged.

    All parts get the same one, because they exchange tensors. On a CPU float32 is the fastest where the weights and
    one picture of the default size fit into memory. Elsewhere the weights keep the half precision that most numbers of
    the large model are stored in. Weights that are stored in float32, or quantised, get bfloat16, which has the range
    of float32.

    Args:
        found: the files that are to be loaded; their configurations must be valid.
        device: where the models are to run.
        free: bytes of memory for them on a CPU; None for all that is free.
    """
    plan = MemoryPlan.of(found)
    numbers = plan.weights[LARGE].stored
    stored = max(numbers, key=lambda name: numbers[name], default="other types")
    kept = HALVES.get(stored, torch.bfloat16)
    if device.type != "cpu":
        logger.info("dtype auto: %s on %s, the weights are stored as %s", dtype_name(kept), device, stored)
        return kept
    needed = sum(plan.weight_bytes("float32").values()) + plan.picture_bytes("float32", *plan.limits.default)
    free = free_memory() if free is None else free
    sizes = f"weights and a picture take {needed / 2**30:.1f} GiB in float32, {free / 2**30:.1f} GiB are free"
    if needed <= free:
        logger.info("dtype auto: float32 on the CPU: %s", sizes)
        return torch.float32
    logger.warning("dtype auto: %s on the CPU, since float32 does not fit: %s", dtype_name(kept), sizes)
    return kept


def dtype_name(dtype: torch.dtype) -> str:
    """Its name without the library: float32."""
    return str(dtype).removeprefix("torch.")
