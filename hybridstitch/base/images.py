"""A result for people to look at: the report as lines of text, the mask over the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from hybridstitch.base.progress import counted
from hybridstitch.errors import InvalidInput, Problem

TINT = (255, 0, 96)
STRENGTH = 0.6
FEW, MANY = (20, 60, 200), (255, 225, 40)
"""Colours of tokens with the fewest and the most steps of the large model."""
OVERLAY_SIDE = 256
"""Pixels of an overlay's longer side, at least about: smaller pictures are enlarged, for lines and words to be read."""
LEGEND = 32
"""Height of the legend in pixels."""


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report (JSON form) as a small table of stages between two lines of totals."""
    size = f"{report['width']}x{report['height']}"
    lines = [f"recipe {report['recipe']['name']}, seed {report['seed']}, {size}", ""]
    lines.append(f"{'stage':<8}{'steps':>7}{'ms':>10}{'tokens by large':>17}{'by small':>10}")
    for stage in report.get("stages", []):
        row = f"{stage['name']:<8}{stage['steps']:>7}{stage['ms']:>10.1f}"
        lines.append(f"{row}{stage['large_tokens']:>17}{stage['small_tokens']:>10}")
    times = ", ".join(f"{name} {ms:.0f} ms" for name, ms in report["timing_ms"].items())
    asked, taken = report["num_inference_steps"], report.get("steps_taken", report["num_inference_steps"])
    steps = f"{taken} steps" if taken == asked else f"{taken} of the {asked} steps asked for"
    shares = f"{steps}; the large model rendered {report['large_token_share']:.1%} of their token-steps"
    lines += ["", f"{shares}; {report['flops_share']:.1%} of the FLOPs that it would need alone for all {asked}", times]
    return lines + [f"warning: {warning}" for warning in report["warnings"]]


def mask_overlay(image: Image.Image, report: dict[str, Any], number: int = 0) -> Image.Image:
    """The picture in grey, coloured by how often the large model rendered each token, above a legend.

    Blue tokens had the fewest steps of the large model, yellow ones the most; a line surrounds those above the middle.

    Args:
        image: the picture.
        report: its report (JSON form).
        number: which of the report's pictures it is, from 0.

    Raises:
        InvalidInput: for the report of an endpoint that has no mask.
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
    return shown


def _colours(strength: np.ndarray) -> np.ndarray:
    """A colour for each strength, 0 to 1, on a scale that also shows in grey and to the colour-blind."""
    mixed = np.array(FEW) + (np.array(MANY) - np.array(FEW)) * strength[..., None]
    return np.rint(mixed).astype(np.uint8)


def _outline(draw: ImageDraw.ImageDraw, inside: np.ndarray, size: tuple[int, int]) -> None:
    """The border of the tokens inside, light on dark, so that it shows on every picture."""
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
    """A bar of the colours below the picture, with the steps of the large model at both ends."""
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
    """The picture, tinted as `strength` `(rows, columns)`, 0 to 1, says; `enlarge` is the way from tokens to pixels."""
    alpha = Image.fromarray((255 * STRENGTH * strength).astype(np.uint8))
    tint = Image.new("RGB", picture.size, TINT)
    return Image.composite(tint, picture, alpha.resize(picture.size, enlarge))
