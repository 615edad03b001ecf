"""The trained parts of the pair: two transformers of one latent space, two shared text encoders, a tokenizer."""

import json
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from training.scenes import Library
from training.vocabulary import COLOURS, CORNERS, GRAMMAR, STYLES

CONTEXT_LENGTH = 32
"""Text tokens, start, end and padding included."""
CAPTION_LENGTH = 20
"""Of these, what a caption takes; only the longest names of `--all` take more. The tokens after have read it all."""
TEXT_WIDTH = 128
LATENT_SIDE = 32
"""Latent side of a 128 px picture."""
PATCH = 2
GRID = LATENT_SIDE // PATCH
"""Image tokens a side of a 128 px picture."""
SHAPES: dict[str, dict[str, object]] = {
    "large": {"num_attention_heads": 3, "attention_head_dim": 64, "num_layers": 8},
    "small": {"num_attention_heads": 3, "attention_head_dim": 64, "num_layers": 3, "dual_attention_layers": ()},
}
"""The small one is made of blocks of the large one, so all but their number is alike; the ratio of FLOPs is SD3.5's.

With a second attention over the image tokens alone in its first block, as SD3.5-Medium has in many, three blocks would
cost too much for that ratio.
"""
TEXT_LAYERS = (3, 4)


def build_transformer(size: str) -> SD3Transformer2DModel:
    """An untrained transformer whose output and modulation start at zero, so that every block starts as an identity."""
    shape = SHAPES[size]
    width = int(str(shape["num_attention_heads"])) * int(str(shape["attention_head_dim"]))
    transformer = SD3Transformer2DModel(
        sample_size=LATENT_SIDE,
        patch_size=PATCH,
        in_channels=16,
        out_channels=16,
        caption_projection_dim=width,
        joint_attention_dim=2 * TEXT_WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=GRID,
        qk_norm="rms_norm",
        **shape,
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (is_modulation(name) or name == "proj_out"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def is_modulation(name: str) -> bool:
    """Whether a module or parameter belongs to a layer that turns timestep and prompt into scales and shifts."""
    return ".norm1." in f".{name}." or ".norm1_context." in f".{name}." or name.startswith("norm_out.linear")


def set_grid(transformer: SD3Transformer2DModel, side: int) -> None:
    """Make `side` x `side` image tokens span the whole picture: positions averaged over cells of the 16x16 table.

    The model reads the centre of its table for grids smaller than the table, so that is where they go.
    """
    table = build_position_table(transformer)
    start = (GRID - side) // 2
    cells = torch.nn.functional.adaptive_avg_pool2d(table, side)
    table[:, :, start : start + side, start : start + side] = cells
    transformer.pos_embed.pos_embed.copy_(table.permute(0, 2, 3, 1).reshape(1, GRID * GRID, -1))


def build_position_table(transformer: SD3Transformer2DModel) -> torch.Tensor:
    """The original positions as `(1, width, 16, 16)`."""
    fresh = SD3Transformer2DModel.from_config({**transformer.config, "num_layers": 1}).pos_embed.pos_embed
    return fresh.reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2).clone().to(transformer.device)


def load_tokenizer(runs: Path, library: Library) -> CLIPTokenizer:
    """A CLIP tokenizer in which a word of the captions is a token or few, and any other text still has some.

    Trained once and then read back: training it again would number the tokens in another order.
    """
    folder = runs / "tokenizer"
    if not folder.exists():
        keywords = (" ".join(each) for each in library.keywords.values())
        texts = [GRAMMAR, *COLOURS, *STYLES, *CORNERS, *library.weights, *(text for text in keywords if text)]
        empty = CLIPTokenizer(model_max_length=CONTEXT_LENGTH)
        trained = empty.train_new_from_iterator(texts, vocab_size=8192, show_progress=False)
        closed(trained).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def closed(tokenizer: CLIPTokenizer) -> CLIPTokenizer:
    """The tokenizer with an end-of-word token for every byte: without, a comma would read as the end of the text."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = model["vocab"]
    for letter in sorted(token for token in vocabulary if len(token) == 1):
        vocabulary.setdefault(f"{letter}</w>", len(vocabulary))
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)


def build_text_encoders(tokenizer: CLIPTokenizer) -> nn.ModuleList:
    """Two untrained CLIP text models, 128 wide, of different depth.

    CLIP's own start (embeddings of 0.02) leaves the words too faint to be heard for hundreds of steps. Here
    words start at a standard deviation of one; what every caption shares, and bytes that none has, start small.
    """
    encoders = [
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                projection_dim=TEXT_WIDTH,
                num_hidden_layers=layers,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        for layers in TEXT_LAYERS
    ]
    bytes_alone = [index for token, index in tokenizer.get_vocab().items() if len(token.removesuffix("</w>")) == 1]
    faint = [tokenizer.bos_token_id, tokenizer.eos_token_id, *bytes_alone]
    for encoder in encoders:
        words = encoder.get_input_embeddings().weight
        nn.init.normal_(words, std=1.0)
        with torch.no_grad():
            words[faint] *= 0.1
    return nn.ModuleList(encoders)


def encode_prompts(
    tokenizer: CLIPTokenizer, encoders: nn.ModuleList, prompts: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Context `(batch, 32, 256)` and pooled `(batch, 256)`, joined as `StableDiffusion3Pipeline` joins them."""
    tokens = tokenizer(
        prompts, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids.to(encoders[0].device)
    outputs = [encoder(tokens, output_hidden_states=True) for encoder in encoders]
    context = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return context, torch.cat([output.text_embeds for output in outputs], dim=-1)
