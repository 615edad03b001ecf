"""Pictures coloured by what the models did in each place: the mask overlay and the heat of an explanation."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from hybridstitch.base.mark import is_marked, mark
from hybridstitch.base.progress import counted
from hybridstitch.errors import InvalidInput, Problem

TINT = (255, 0, 96)
STRENGTH = 0.6
"""Opacity of a colour over the picture, 0 to 1."""
FEW, MANY = (20, 60, 200), (255, 225, 40)
"""Colours of the tokens that the large model rendered least and most often."""
OVERLAY_SIDE = 256
"""Longer side of an overlay in pixels, about. Smaller pictures are enlarged to it, so that the legend is readable."""
LEGEND = 32
"""Height of the legend in pixels."""


def mask_overlay(image: Image.Image, report: dict[str, Any], number: int = 0) -> Image.Image:
    """The picture in grey, coloured by how often the large model rendered each token, above a legend.

    The colours run from blue (least often) to yellow (most often). A line surrounds the tokens above the middle. It
    is marked as generated if the picture is.

    Args:
        image: the picture.
        report: its report (JSON form).
        number: index of the picture in the report, from 0.

    Raises:
        InvalidInput: for a report without a mask.
    """
    if "mask" not in report:
        raise InvalidInput([Problem("mask-overlay", "an endpoint that reports a mask", report["recipe"]["name"])])
    steps = np.array(report["mask"]["large_steps"][number], dtype=np.float64)
    low, high = int(steps.min()), int(steps.max())
    relative = (steps - low) / max(high - low, 1)
    factor = max(1, round(OVERLAY_SIDE / max(image.size)))
    size = (image.width * factor, image.height * factor)
    grey = image.convert("L").convert("RGB").resize(size, Image.Resampling.LANCZOS)
    colours = Image.fromarray(_colours(relative)).resize(size, Image.Resampling.NEAREST)
    picture = Image.blend(grey, colours, STRENGTH)
    _outline(ImageDraw.Draw(picture), relative > 0.5, size)
    shown = Image.new("RGB", (size[0], size[1] + LEGEND), "white")
    shown.paste(picture)
    _legend(shown, size, low, high)
    if is_marked(image):
        mark(shown)
    return shown


def _colours(strength: np.ndarray) -> np.ndarray:
    """A colour for each strength, 0 to 1, on a scale that is legible in grey and for the colour-blind."""
    mixed = np.array(FEW) + (np.array(MANY) - np.array(FEW)) * strength[..., None]
    return np.rint(mixed).astype(np.uint8)


def _outline(draw: ImageDraw.ImageDraw, inside: np.ndarray, size: tuple[int, int]) -> None:
    """Outline the tokens inside, light on dark, so that it is visible on every picture."""
    rows, columns = inside.shape
    wide, high = size[0] / columns, size[1] / rows
    edges = [
        (x * wide, y * high, (x + 1) * wide, y * high)
        for y, x in np.add(np.argwhere(inside[1:] != inside[:-1]), (1, 0))
    ]
    edges += [
        (x * wide, y * high, x * wide, (y + 1) * high)
        for y, x in np.add(np.argwhere(inside[:, 1:] != inside[:, :-1]), (0, 1))
    ]
    for width, colour in ((5, "black"), (2, "white")):
        for edge in edges:
            draw.line(edge, fill=colour, width=width)


def _legend(image: Image.Image, size: tuple[int, int], low: int, high: int) -> None:
    """Add a bar of the colours below the picture, with the number of steps at both ends."""
    draw = ImageDraw.Draw(image)
    top = size[1] + 6
    if low == high:
        draw.text((4, top), f"every token: {counted(low, 'step')} by the large model", fill="black")
        return
    scale = np.linspace(0, 1, size[0] - 8)[None]
    image.paste(Image.fromarray(_colours(scale)).resize((size[0] - 8, 10)), (4, top))
    draw.text((4, top + 13), f"{counted(low, 'step')} by the large model", fill="black")
    draw.text((size[0] - 4, top + 13), f"{high}", fill="black", anchor="ra")


def tinted(picture: Image.Image, strength: np.ndarray, enlarge: Image.Resampling) -> Image.Image:
    """The picture, tinted where `strength` is high.

    Args:
        picture: the picture.
        strength: `(rows, columns)`, 0 to 1.
        enlarge: resampling from tokens to pixels.
    """
    alpha = Image.fromarray((255 * STRENGTH * strength).astype(np.uint8))
    tint = Image.new("RGB", picture.size, TINT)
    return Image.composite(tint, picture, alpha.resize(picture.size, enlarge))
