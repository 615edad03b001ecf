"""Scenes composed on the fly: pictures of the library on coloured backgrounds, with captions."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from PIL import Image

from training.vocabulary import COLOURS, CORNERS, STYLES, HeldOut, Scene, caption, held_out, random_background

PAIRS = 0.2
"""Share of scenes with two objects side by side."""
CORNERED = 0.15
"""Share of scenes with one small object in a corner."""
KEYWORD = 0.1
"""How often a concept goes by one of its keywords instead of its name."""
SIDE_ALONE, SIDE_CORNERED, SIDE_PAIR = (0.7, 0.9), (0.4, 0.5), (0.42, 0.5)
"""Side of an object as a share of the picture's side: smallest and largest."""
JITTER = 0.04
"""Largest shift of an object from its nominal place, as a share of the picture's side."""

Place = tuple[float, float, float]
"""Centre from the left, centre from the top and side of an object, as shares of the picture's side."""
Batch = tuple[torch.Tensor, list[str]]
"""What a stage learns from, `(batch, ...)`, and its captions."""


@dataclass(frozen=True)
class Library:
    """All that scenes are made of.

    `sprites` maps (concept, style) to a square picture with premultiplied alpha (mode RGBa); `weights` is the relative
    frequency of each concept; `keywords` holds the search words of a concept that no other concept has.
    """

    sprites: dict[tuple[str, str], Image.Image]
    weights: dict[str, float]
    keywords: dict[str, list[str]]


class SceneSource:
    """Random training scenes, never a held-out one."""

    def __init__(self, library: Library, seed: int) -> None:
        self.library = library
        self.rng = random.Random(seed)
        self._concepts = list(library.weights)
        self._cumulative = list(accumulate(library.weights.values()))
        self._held_out = HeldOut(held_out())

    def __call__(self) -> tuple[Scene, str]:
        """A scene and one of its captions."""
        while True:
            scene = self._draw()
            drawable = all((concept, scene.style) in self.library.sprites for concept in scene.concepts)
            if drawable and len(set(scene.concepts)) == len(scene.concepts) and scene not in self._held_out:
                return scene, caption(scene, tuple(map(self._name, scene.concepts)), self.rng)

    def _draw(self) -> Scene:
        rng = self.rng
        kind = rng.random()
        count = 2 if kind < PAIRS else 1
        return Scene(
            tuple(rng.choices(self._concepts, cum_weights=self._cumulative, k=count)),
            rng.choices(list(STYLES), list(STYLES.values()))[0],
            random_background(rng),
            rng.choice(CORNERS) if PAIRS <= kind < PAIRS + CORNERED else None,
        )

    def _name(self, concept: str) -> str:
        keywords = self.library.keywords.get(concept)
        return self.rng.choice(keywords) if keywords and self.rng.random() < KEYWORD else concept


def place(scene: Scene, rng: random.Random | None = None) -> list[Place]:
    """Where the objects of a scene stand: nominally, or with `rng` shifted and scaled within what captions allow."""
    if len(scene.concepts) == 2:
        centres, sides = [(0.26, 0.5), (0.74, 0.5)], SIDE_PAIR
    elif scene.corner:
        vertical, horizontal = scene.corner.split()
        centres, sides = [(0.27 if horizontal == "left" else 0.73, 0.27 if vertical == "top" else 0.73)], SIDE_CORNERED
    else:
        centres, sides = [(0.5, 0.5)], SIDE_ALONE
    if rng is None:
        return [(x, y, sum(sides) / 2) for x, y in centres]
    side = rng.uniform(*sides)
    return [(x + rng.uniform(-JITTER, JITTER), y + rng.uniform(-JITTER, JITTER), side) for x, y in centres]


def compose(library: Library, scene: Scene, side: int, rng: random.Random | None = None) -> np.ndarray:
    """The picture of a scene, `(side, side, 3)` uint8 sRGB; without `rng` every object stands at its nominal place."""
    top, bottom = (np.array(COLOURS[colour], np.float32) for colour in scene.background)
    rows = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = (top + (bottom - top) * rows).round().astype(np.uint8)[:, None]
    for concept, where in zip(scene.concepts, place(scene, rng), strict=True):
        _paste(picture, library.sprites[concept, scene.style], where)
    return picture


def _paste(picture: np.ndarray, sprite: Image.Image, where: Place) -> None:
    side = picture.shape[0]
    size = round(side * where[2])
    left, top = (min(max(round(side * centre - size / 2), 0), side - size) for centre in where[:2])
    pixels = np.asarray(sprite.resize((size, size), Image.Resampling.BILINEAR))
    window = picture[top : top + size, left : left + size]
    behind = window * (1 - pixels[..., 3:] / np.float32(255))
    window[:] = np.minimum(pixels[..., :3] + behind.round(), 255).astype(np.uint8)


def to_pixels(pictures: list[np.ndarray]) -> torch.Tensor:
    """Pictures as `(batch, 3, side, side)` float32 in -1..1, what an autoencoder of diffusers takes."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def batches(library: Library, side: int, size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of training pictures, `(size, 3, side, side)` in -1..1, with captions."""
    source = SceneSource(library, seed)
    while True:
        drawn = [source() for _ in range(size)]
        pixels = to_pixels([compose(library, scene, side, source.rng) for scene, _ in drawn])
        yield pixels, [text for _, text in drawn]


def held_out_pictures(library: Library) -> torch.Tensor:
    """One 128 px picture of every held-out scene, always the same: `(count, 3, 128, 128)` in -1..1."""
    rng = random.Random(0)
    return to_pixels([compose(library, scene, 128, rng) for scene in held_out()])
