"""The text encoders' first lesson: say what the picture of a caption looks like.

Before any transformer trains, the encoders learn to regress a thumbnail of the scene from their pooled answer and
from every token behind the caption. A transformer that then listens to them finds colours and shapes laid out
linearly, and needs far fewer steps to use the prompt than with encoders that start from nothing.
"""

import random
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from training import models
from training.data import Batch, Sprites, compose, to_pixels
from training.latents import Projection
from training.train import Stage, hold_then_fall
from training.vocabulary import random_caption, trained

BATCH = 64
FEATURES = 64
"""Leading principal components of the thumbnails that the encoders regress."""
AFTER_CAPTION = 9
"""Every caption ends before this token, so all tokens from here on have read it to its end."""


class Reader(nn.Module):
    """Both text encoders with one linear head on the pooled answer and one on the context."""

    def __init__(self, encoders: nn.ModuleList) -> None:
        super().__init__()
        self.encoders = encoders
        self.pooled_head = nn.Linear(2 * models.TEXT_WIDTH, FEATURES)
        self.context_head = nn.Linear(2 * models.TEXT_WIDTH, FEATURES)


def text_stage(minutes: float, sprites: Sprites, space: Projection) -> Stage:
    """The stage that trains the encoders alone, on all combinations but the held-out ones."""
    tokenizer = models.build_tokenizer()
    reader = Reader(models.build_text_encoders(tokenizer))
    optimizer = torch.optim.AdamW(reader.parameters(), 1e-3, (0.9, 0.98), weight_decay=0.0)

    def loss(model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        assert isinstance(model, Reader)
        features, captions = batch
        context, pooled = models.encode_prompts(tokenizer, model.encoders, captions)
        seen = model.context_head(context[:, AFTER_CAPTION:])
        return functional.mse_loss(model.pooled_head(pooled), features) + functional.mse_loss(
            seen, features.unsqueeze(1).expand_as(seen)
        )

    return Stage("text", minutes, reader, [optimizer], loss, hold_then_fall, partial(thumbnails, sprites, space))


def thumbnails(sprites: Sprites, space: Projection, seed: int) -> Iterator[Batch]:
    """Endless batches of thumbnail features `(batch, 64)` with captions."""
    rng = random.Random(seed)
    combinations = trained()
    pixels = to_pixels([compose(sprites[concept], colour, 64, rng) for concept, colour in combinations])
    features = _principal(functional.avg_pool2d(space.encode(pixels.to(space.mean.device)), 2).flatten(1))
    while True:
        chosen = rng.choices(range(len(combinations)), k=BATCH)
        captions = [random_caption(*combinations[index], rng) for index in chosen]
        yield features[chosen], captions


def _principal(values: torch.Tensor) -> torch.Tensor:
    """Leading components of `(n, width)`, evened out half-way as the latents are, with a mean square of one."""
    _, strengths, directions = torch.linalg.svd(values - values.mean(0), full_matrices=False)
    components = (values - values.mean(0)) @ directions[:FEATURES].T / strengths[:FEATURES].sqrt()
    return components / components.square().mean().sqrt()
