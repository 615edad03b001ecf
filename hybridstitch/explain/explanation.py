"""The result of an explanation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from hybridstitch.base.words import Word


@dataclass(frozen=True)
class Explanation:
    """The effect of each word of a prompt on one picture.

    Attributes:
        words: In the prompt's order, with their scores.
        heatmaps: `(words, rows, columns)` of the token grid, float32 from 0: how far the large model's prediction of a
            token moves without the word, mean over the explained steps. For target mask, the score of the mask.
        image: The picture, the same as a prediction of the request gives.
        mask: The tokens that are explained, bool `(rows, columns)`: those that the large model rendered in an
            explained step with a mask, or those of the region; None for the whole image.
        target, method: As requested.
        baseline: Description of the prompt that a word is compared with, see `effects.RESTS`.
        steps_explained: The explained steps, from 0.
        forwards: Forwards of a transformer beyond the generation's own, for one picture and one half of the guidance.
        convergence_delta: Integrated gradients only: distance of the sum of the scores from the whole effect, at least
            0, in the units of the scores.
        report: The report of the generation, as JSON.
    """

    words: tuple[Word, ...]
    heatmaps: Tensor
    image: Image.Image
    mask: Tensor | None
    target: str
    method: str
    baseline: str
    steps_explained: tuple[int, ...]
    forwards: int
    convergence_delta: float | None
    report: dict[str, Any]
