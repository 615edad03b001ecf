"""A result for people to look at: the report as lines of text, the mask over the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from hybridstitch.errors import InvalidInput, Problem

TINT = (255, 0, 96)
STRENGTH = 0.6


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
    """The picture, tinted where the large model rendered a token at more steps than elsewhere.

    number: which of the report's pictures it is, from 0.
    Raises InvalidInput for the report of an endpoint that has no mask.
    """
    if "mask" not in report:
        raise InvalidInput([Problem("mask-overlay", "an endpoint that reports a mask", report["recipe"]["name"])])
    steps = np.array(report["mask"]["large_steps"][number], dtype=np.float64)
    relative = (steps - steps.min()) / max(np.ptp(steps), 1)
    return tinted(image.convert("RGB"), relative, Image.Resampling.NEAREST)


def tinted(picture: Image.Image, strength: np.ndarray, enlarge: Image.Resampling) -> Image.Image:
    """The picture, tinted as `strength` `(rows, columns)`, 0 to 1, says; `enlarge` is the way from tokens to pixels."""
    alpha = Image.fromarray((255 * STRENGTH * strength).astype(np.uint8))
    tint = Image.new("RGB", picture.size, TINT)
    return Image.composite(tint, picture, alpha.resize(picture.size, enlarge))
