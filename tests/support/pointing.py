"""Where the words of a scene should act: read off the picture itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from hybridstitch.explain import Word
from training.vocabulary import COLOURS

UNLIKE = 0.15
"""Mean distance of a pixel's channels from the background that was asked for, from which on it is an object's."""


def background_of(prompt: str) -> list[str]:
    """The colours at the top and at the bottom."""
    colours = prompt.split(" on ")[1].split(" to ")
    return [colours[0], colours[-1]]


def object_tokens(picture: Image.Image, prompt: str, grid: Sequence[int]) -> np.ndarray:
    """The tokens more than half of which do not look like the background, bool `(rows, columns)`."""
    pixels = np.asarray(picture, np.float32) / 255
    top, bottom = (np.array(COLOURS[colour], np.float32) / 255 for colour in background_of(prompt))
    background = top + (bottom - top) * np.linspace(0, 1, pixels.shape[0])[:, None, None]
    unlike = np.abs(pixels - background).mean(axis=2) > UNLIKE
    rows, columns = (size // cells for size, cells in zip(unlike.shape, grid, strict=True))
    return unlike.reshape(grid[0], rows, grid[1], columns).mean(axis=(1, 3)) > 0.5


def heat_of(words: Sequence[Word], heatmaps: Tensor, start: int, end: int) -> np.ndarray:
    """The mean heat `(rows, columns)` of the words within these characters of the prompt."""
    chosen = [heat for word, heat in zip(words, heatmaps, strict=True) if start <= word.start and word.end <= end]
    return np.mean([heat.numpy() for heat in chosen], axis=0)


def points_to(heat: np.ndarray, place: np.ndarray) -> bool:
    """The pointing game: whether the hottest token lies in the place."""
    return bool(place.flat[heat.argmax()])
