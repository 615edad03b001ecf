"""Training of the text encoders: they predict what the picture of a caption looks like.

Before any transformer trains, the encoders learn to describe the scene: the pooled output gives colours, places and a
rough idea of the objects, and the padding tokens behind the caption give the objects themselves, as principal
components of their pictures, six tokens for each object. Then they are frozen. A transformer
finds looks and colours as linear features of their output, so it need not learn what words mean.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training import models
from training.muon import Muon
from training.scenes import Batch, Library, SceneSource, place
from training.train import Stage, hold_then_fall
from training.vocabulary import COLOURS, STYLES, Scene

TOKENS = (models.CONTEXT_LENGTH - models.CAPTION_LENGTH) // 2
"""Padding tokens that describe one object."""
FEATURES = 40
"""Principal components that one of them gives."""
ROUGH = 24
"""Leading components of each object in the pooled answer."""
THUMBNAIL = 24
"""Side of the pictures that the components are taken of."""
SCENE_FEATURES = 6 + len(STYLES) + 2 * (4 + ROUGH)
"""Colours of top and bottom, style, and for either object its presence, place and rough looks."""

Looks = dict[tuple[str, str], np.ndarray]
"""(concept, style) -> components of its picture, `(TOKENS * FEATURES,)`."""


class Reader(nn.Module):
    """Both text encoders with one linear head on the pooled answer and one on the tokens behind the caption."""

    def __init__(self, encoders: nn.ModuleList) -> None:
        super().__init__()
        self.encoders = encoders
        self.pooled_head = nn.Linear(2 * models.TEXT_WIDTH, SCENE_FEATURES)
        self.context_head = nn.Linear(2 * models.TEXT_WIDTH, FEATURES)


def text_stage(minutes: float, library: Library, runs: Path, size: int) -> Stage:
    """The stage that trains the encoders, on captions of all scenes but the held-out ones."""
    tokenizer = models.load_tokenizer(runs, library)
    reader = Reader(models.build_text_encoders(tokenizer))

    def loss(model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        assert isinstance(model, Reader)
        features, captions = batch
        scene, objects = features.split([SCENE_FEATURES, features.shape[1] - SCENE_FEATURES], dim=1)
        context, pooled = models.encode_prompts(tokenizer, model.encoders, captions)
        described = model.context_head(context[:, models.CAPTION_LENGTH :]).flatten(1)
        return functional.mse_loss(model.pooled_head(pooled), scene) + functional.mse_loss(described, objects)

    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in reader.named_parameters():
        (matrices if ".layers." in name and parameter.ndim == 2 else others).append(parameter)
    optimizers = [Muon(matrices, 0.02), torch.optim.AdamW(others, 3e-3, (0.9, 0.98), weight_decay=0.0)]
    return Stage(
        "text",
        minutes,
        reader,
        optimizers,
        loss,
        hold_then_fall,
        partial(descriptions, library, picture_features(library), size),
    )


def descriptions(library: Library, looks: Looks, size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of the targets of the encoders, `(size, features)`, with captions."""
    source = SceneSource(library, seed)
    while True:
        drawn = [source() for _ in range(size)]
        rows = [describe(scene, looks) for scene, _ in drawn]
        yield torch.from_numpy(np.stack(rows)), [text for _, text in drawn]


def describe(scene: Scene, looks: Looks) -> np.ndarray:
    """One row of features: the scene's, then the first object's, then the second's or zeros."""
    colours = [(channel - 128) / 64 for colour in scene.background for channel in COLOURS[colour]]
    styles = [float(scene.style == style) for style in STYLES]
    row = [np.array(colours + styles)]
    pictures = [looks[concept, scene.style] for concept in scene.concepts]
    places = [np.array([1.0, *(4 * (each - 0.5) for each in where)]) for where in place(scene)]
    missing = 2 - len(pictures)
    pictures += [np.zeros(TOKENS * FEATURES)] * missing
    places += [np.zeros(4)] * missing
    for picture, where in zip(pictures, places, strict=True):
        row += [where, picture[:ROUGH]]
    return np.concatenate(row + pictures).astype(np.float32)


def picture_features(library: Library) -> Looks:
    """Leading components of every sprite, evened out half-way as the latents are, with a mean square of one."""
    count = TOKENS * FEATURES
    pictures = np.stack([np.asarray(sprite.resize((THUMBNAIL,) * 2)).ravel() for sprite in library.sprites.values()])
    values = torch.from_numpy(pictures).float()
    values -= values.mean(0)
    variances, directions = torch.linalg.eigh((values.T @ values).double())
    variances.clamp_(1e-6 * variances[-1])
    leading = directions[:, -count:].flip(1).float()
    # An eigenvector's sign is arbitrary, and all processes and resumed runs have to mean the same.
    leading *= leading.gather(0, leading.abs().argmax(0, keepdim=True)).sign()
    components = values @ leading / variances[-count:].flip(0).float().pow(0.25)
    components /= components.square().mean().sqrt()
    return dict(zip(library.sprites, components.numpy(), strict=True))
