"""A pair of full size whose weights are holes in files: they have headers and lengths, and take no disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hybridstitch.base.paths import EMBEDDED_PAIR

SIZES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "transformer": (
        "diffusion_pytorch_model",
        8_146_000_000,
        {"num_layers": 38, "num_attention_heads": 38, "pos_embed_max_size": 192},
    ),
    "transformer_small": (
        "diffusion_pytorch_model",
        2_470_000_000,
        {
            "num_layers": 24,
            "num_attention_heads": 24,
            "pos_embed_max_size": 384,
            "dual_attention_layers": list(range(13)),
        },
    ),
    "vae": (
        "diffusion_pytorch_model",
        84_000_000,
        {"latent_channels": 16, "block_out_channels": [128, 256, 512, 512]},
    ),
    "text_encoder": ("model", 124_000_000, {"max_position_embeddings": 77}),
    "text_encoder_2": ("model", 695_000_000, {"max_position_embeddings": 77}),
}
"""By part of SD3.5-Large with Medium: the stem of its file, its number of weights, and its configuration."""
SHARED = {"patch_size": 2, "sample_size": 128, "attention_head_dim": 64, "in_channels": 16, "out_channels": 16}


def make_full_size_folder(path: Path) -> Path:
    """A packed pair of SD3.5-Large and Medium in bfloat16, without T5, 23 GB long."""
    shutil.copytree(EMBEDDED_PAIR, path, ignore=shutil.ignore_patterns("*.safetensors", "recipes.json"))
    for part, (stem, count, config) in SIZES.items():
        own = path / part / "config.json"
        merged = json.loads(own.read_text()) | (SHARED if part.startswith("transformer") else {}) | config
        own.write_text(json.dumps(merged))
        _write_holes(path / part / f"{stem}.safetensors", count)
    return path


def _write_holes(path: Path, count: int) -> None:
    tensor = {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}
    header = json.dumps({"weights": tensor}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * count)
