"""The samples that the page shows: the farthest, the middle and the nearest, with difference and mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hybridstitch.base.images import data_url, encode_image
from hybridstitch.base.overlay import mask_overlay
from hybridstitch.compare.measured import MeasuredSample
from hybridstitch.compare.measures import mask_of

EACH = 2
"""Samples in each group."""
LARGEST = 512
"""Pixels of the longer side; larger pictures are made smaller."""
TIMES = "\u00d7"
GAIN = 4.0
"""How many times the difference is brightened."""

Groups = list[tuple[str, list[MeasuredSample]]]


def shown(samples: Sequence[MeasuredSample]) -> Groups:
    """The worst, median and best samples by PSNR, each in one group; all answered samples if there are few."""
    answered = [sample for sample in samples if sample.answered]
    ordered = sorted(answered, key=_nearness)
    if len(ordered) <= 3:
        return [("All pairs", ordered)] if ordered else []
    each = min(EACH, len(ordered) // 3)
    middle = (len(ordered) - each) // 2
    return [
        ("Farthest apart", ordered[:each]),
        ("In the middle", ordered[middle : middle + each]),
        ("Nearest", ordered[-each:][::-1]),
    ]


def _nearness(sample: MeasuredSample) -> tuple[float, int, int]:
    """Return the key of the order: PSNR, infinite for identical pictures; without PSNR, the quality of B minus A."""
    value = math.inf if sample.identical else sample.fidelity.get("psnr_db")
    if value is None and sample.quality_a is not None and sample.quality_b is not None:
        value = sample.quality_b - sample.quality_a
    return (0.0 if value is None else value, sample.prompt, sample.seed)


def panels(sample: MeasuredSample, folder: Path) -> list[tuple[str, str]]:
    """Return captions and data URLs: A, B, their difference if the sizes agree, and B's mask or else A's."""
    found = [(row, Image.open(folder / row.picture).convert("RGB")) for row in (sample.a, sample.b) if row.picture]
    panel = [(row.side.upper(), _shown(image)) for row, image in found]
    reference, picture = (np.asarray(image, np.float64) / 255 for _, image in found)
    if reference.shape == picture.shape:
        difference = np.clip(GAIN * np.abs(picture - reference), 0, 1)
        caption = "identical" if sample.identical else f"difference {TIMES} {GAIN:g}"
        panel.append((caption, _shown(Image.fromarray((255 * difference).round().astype(np.uint8)))))
    for row, image in reversed(found):
        if row.report and mask_of(row.report, (image.height, image.width)) is not None:
            panel.append((f"{row.side.upper()}'s mask", _shown(mask_overlay(image, dict(row.report)))))
            break
    return panel


def _shown(image: Image.Image) -> str:
    """A picture as a data URL, at most `LARGEST` pixels wide and high."""
    scale = LARGEST / max(image.size)
    if scale < 1:
        image = image.resize((max(1, round(scale * image.width)), max(1, round(scale * image.height))))
    return data_url(encode_image(image, "webp", quality=88, method=4), "webp")
