"""A CLIP model of toy size with random weights."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from hybridstitch.base.paths import EMBEDDED_PAIR

PIXELS = 32


def save_clip(folder: Path) -> None:
    """Write model, tokenizer and image processor as `transformers` reads them. The words are the embedded pair's."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_PAIR / "tokenizer")
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    config = CLIPConfig(
        text_config=tiny | text | {"max_position_embeddings": tokenizer.model_max_length},
        vision_config=tiny | {"image_size": PIXELS, "patch_size": PIXELS // 2},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": PIXELS, "width": PIXELS}
    CLIPImageProcessor(size={"shortest_edge": PIXELS}, crop_size=size).save_pretrained(folder)
