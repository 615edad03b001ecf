"""`torch.compile` for the blocks of a transformer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel

GRAPHS = 256
"""Graphs that torch keeps for all blocks of a process, before it gives up and runs them as they are. Its own limit, 8,
is too low for two models: each kind of block needs one for dense and masked steps, with and without guidance, and
again for each set of LoRA adapters that acts."""
CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The variable that names the folder where torch keeps compiled code."""


def compile_blocks(transformer: SD3Transformer2DModel, cache: str | Path | None = None, **options: Any) -> None:
    """Compile the forward of every block, so that hooks on a block run as they are.

    The graphs serve every number of tokens: a new size makes no new ones.

    Args:
        transformer: the large or the small model.
        cache: the folder where torch keeps compiled code between processes; by default torch's own choice.
        options: of `torch.compile`, such as `mode` or `backend`.
    """
    if cache is not None:
        os.environ[CACHE] = str(cache)
    config: Any = torch._dynamo.config
    config.recompile_limit = max(GRAPHS, config.recompile_limit)
    for block in transformer.transformer_blocks:
        plain = getattr(block.forward, "_torchdynamo_orig_callable", block.forward)
        block.forward = torch.compile(plain, **({"dynamic": True} | options))


def graph_count() -> int:
    """The number of graphs that torch has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
