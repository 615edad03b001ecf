"""What an explanation says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from hybridstitch.base.words import Word


@dataclass(frozen=True)
class Explanation:
    """What each word of a prompt did to one picture.

    words: in the prompt's order, with their scores.
    heatmaps: `(words, rows, columns)` of the token grid, float32 from 0: how far the large model's prediction (target
        mask: the mask's score) of a token moves when the word is left out, mean over the explained steps.
    image: the picture explained, the one that a prediction of the same request gives.
    mask: bool `(rows, columns)`, the tokens that are explained: those that the large model rendered in a step that
        made a mask (any of the explained ones), those of the region, or None for the whole image.
    baseline: what "without the word" means.
    steps_explained: the steps, from 0, at which the models were asked.
    forwards: of a transformer, beyond the generation's own; a picture of a batch counts as one, as does each half of
        guidance.
    convergence_delta: integrated gradients only: how far the sum of the scores is from the whole effect, in
        their own units.
    report: the generation's, as in a prediction.
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
