"""The page of an explanation. It makes a page of any server's answer, so it checks the answer first."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from hybridstitch.base.images import data_url, encode_image
from hybridstitch.errors import raise_problems
from hybridstitch.html.document import render_page
from hybridstitch.html.explanation_check import explanation_problems

COOL, HOT = np.array([255, 90, 0]), np.array([255, 240, 60])
"""Colours of a token that a word hardly moves, and of the token that it moves the most."""
OPAQUE = 230
"""Alpha of the hottest token, of 255: the picture must shine through."""
NOT_OPTIONS = ("prompt", "output_format", "output_quality")
"""Fields of the request that the command of the page does not repeat as options."""

Answer = Mapping[str, Any]


def render(answer: Answer) -> str:
    """Return the page of an answer of `/explanations` (JSON).

    Raises:
        InvalidInput: with every field of the answer that is wrong.
    """
    raise_problems(explanation_problems(answer))
    words, prompt, mask = answer["words"], answer["request"]["prompt"], answer["mask"]
    heats = [_heat(word) for word in words]
    hottest = max(float(heat.max()) for heat in heats) or 1
    total = np.sum(heats, axis=0)
    largest = max(abs(word["score"]) for word in words) or 1
    ends = [0, *(word["end"] for word in words)]
    shown = [
        {
            "text": word["text"],
            "before": prompt[end : word["start"]],
            "marked": prompt[word["start"] : word["end"]],
            "sign": "against" if word["score"] < 0 else "for",
            "share": 100 * abs(word["score"]) / largest,
            "score": f"{word['score']:.3g}" if word.get("read", True) else "not read",
            "heat": _picture(heat / hottest),
            "heat_max": word["heat_max"],
        }
        for word, heat, end in zip(words, heats, ends, strict=False)
    ]
    return render_page(
        "explanation.html",
        answer=answer,
        words=shown,
        after=prompt[ends[-1] :],
        strongest=sorted(shown, key=lambda word: -word["share"])[:2],
        everywhere=_picture(total / (total.max() or 1)),
        border=_border(mask) if mask else "",
        figures=_figures(answer),
        facts=_facts(answer),
        command=command(answer),
    )


def _heat(word: Mapping[str, Any]) -> np.ndarray:
    """The word's heat `(rows, columns)`, in the unit of its `heat_max`."""
    grey = Image.open(io.BytesIO(base64.b64decode(word["heatmap_png_b64"])))
    return np.asarray(grey, dtype=np.float64) * (word["heat_max"] / 255)


def _picture(strength: np.ndarray) -> str:
    """Heat `(rows, columns)` in 0..1 as the data URL of a PNG. It has one pixel a token; the browser enlarges it."""
    colour = COOL + (HOT - COOL) * strength[..., None]
    pixels = np.concatenate([colour, OPAQUE * strength[..., None]], axis=-1)
    return data_url(encode_image(Image.fromarray(np.rint(pixels).astype(np.uint8), "RGBA"), "png"), "png")


def _border(mask: Mapping[str, Any]) -> str:
    """The border of the mask's tokens as the path of an SVG, one unit a token."""
    rows, columns = mask["grid"]
    inside = np.zeros((rows + 2, columns + 2), dtype=bool)
    inside[1:-1, 1:-1].flat[mask["tokens"]] = True
    across = np.argwhere(inside[1:, 1:-1] != inside[:-1, 1:-1])
    down = np.argwhere(inside[1:-1, 1:] != inside[1:-1, :-1])
    return "".join([*(f"M{x} {y}h1" for y, x in across), *(f"M{x} {y}v1" for y, x in down)])


def _figures(answer: Answer) -> list[tuple[str, str, str]]:
    """Name, value and a small line, for the cards of the page."""
    steps, report = answer["steps_explained"], answer["report"]
    named = f"step{'s' * (len(steps) != 1)} {', '.join(str(step + 1) for step in steps)}"
    figures = [
        ("Cost", str(answer["forwards"]), "forwards of a transformer, beyond those of the picture"),
        ("Steps explained", str(len(steps)), f"{named} of {len(report['mask']['share_by_step'])}"),
        ("Large model's share", f"{100 * report['large_token_share']:.0f} %", "of the token-steps of the picture"),
    ]
    if "convergence_delta" in answer:
        delta = 100 * answer["convergence_delta"]
        figures.append(("Convergence delta", f"{delta:.2f} %", "of the whole effect: how far the scores' sum is off"))
    return figures


def _facts(answer: Answer) -> dict[str, Any]:
    return {
        "method": answer["method"],
        "without a word means": answer["baseline"],
        **{name: value for name, value in answer["request"].items() if value not in (None, "")},
        "milliseconds for the picture": answer["report"]["timing_ms"],
    }


def command(answer: Answer) -> str:
    """The shell command that makes this page again on the same pair."""
    options = ["hybridstitch", "explain", answer["request"]["prompt"]]
    for name, value in answer["request"].items():
        is_idle = name == "gradient_steps" and answer["method"] == "ablation"
        if name not in NOT_OPTIONS and value not in (None, "") and not is_idle:
            options += [f"--{name.replace('_', '-')}", _option(name, value, answer["report"]["recipe"])]
    return shlex.join(options)


def _option(name: str, value: Any, recipe: Mapping[str, Any]) -> str:
    if name == "recipe":
        return json.dumps(recipe) if recipe["name"] in ("custom", "tuned", "untuned") else recipe["name"]
    return ",".join(map(str, value)) if name == "region" else str(value)
