"""The script that writes models of full size: what it writes can be loaded, whole or in shards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hybridstitch import HybridStitchPipeline
from hybridstitch.bench.scale_models import SHAPES
from training import full_size


@pytest.mark.parametrize("shard_bytes", [full_size.SHARD_BYTES, 400_000])
def test_written_models_load_and_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int) -> None:
    """At toy width; the script itself runs with all layers."""
    for name, shape in list(SHAPES.items()):
        narrow = {"num_attention_heads": 2, "caption_projection_dim": 128, "pos_embed_max_size": 16}
        monkeypatch.setitem(SHAPES, name, {**shape, **narrow})  # type: ignore[arg-type]
    monkeypatch.setattr(full_size, "SHARD_BYTES", shard_bytes)
    large, small = full_size.write_models(tmp_path, layers=2)
    shards = sorted(path.name for path in (large / "transformer").glob("*.safetensors"))
    assert (len(shards) > 1) == (shard_bytes < full_size.GIB)
    assert [path.name for path in small.iterdir()] == ["transformer"]
    pipe = HybridStitchPipeline.from_pretrained(large=large, small=small)
    pipe.set_progress_bar_config(disable=True)
    assert (pipe.large.config.num_layers, pipe.small.config.dual_attention_layers) == (2, [0, 1])
    parameters = dict(pipe.large.named_parameters())
    assert parameters["proj_out.weight"].detach().std() == pytest.approx(0.02, rel=0.1)
    assert (parameters["transformer_blocks.0.attn.norm_q.weight"] == 1).all()
    out = pipe("x", recipe="hybridstitch", num_inference_steps=6, width=64, height=64, output_type="latent")
    assert torch.isfinite(out.images).all()
