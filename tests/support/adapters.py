"""LoRA adapters with random weights, in files as diffusers writes them."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from peft import LoraConfig, get_peft_model_state_dict

LAYERS = ["to_q", "add_k_proj", "to_out.0", "ff.net.2"]


def save_lora(path: Path, transformer: SD3Transformer2DModel, seed: int = 0) -> Path:
    """Write an adapter of rank 2 for a transformer, and return its path. The transformer stays as it is."""
    copy = SD3Transformer2DModel.from_config(transformer.config)
    torch.manual_seed(seed)
    copy.add_adapter(LoraConfig(r=2, lora_alpha=4, init_lora_weights=False, target_modules=LAYERS))
    StableDiffusion3Pipeline.save_lora_weights(
        path.parent, transformer_lora_layers=get_peft_model_state_dict(copy), weight_name=path.name
    )
    return path
