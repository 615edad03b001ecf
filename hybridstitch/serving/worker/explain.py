"""The answer to a request for an explanation: a JSON document with words, scores, heat maps and the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hybridstitch.base.images import base64_text, encode_image
from hybridstitch.base.overlay import tinted
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.wire.documents import Answer, Rendering, document_of, headers_of, json_answer
from hybridstitch.wire.question import FIXED, Question
from hybridstitch.wire.request import GenerationRequest

if TYPE_CHECKING:
    from hybridstitch.explain import Explanation, Word

OVERLAY_PIXELS = 512
"""The longer side of the overlay, at most: it is there to be looked at, and answers stay small."""


@dataclass(frozen=True)
class Explained:
    """A picture, the request that makes it again, the question about it and what was found."""

    rendering: Rendering
    question: Question
    found: Explanation


Explainer = Callable[[GenerationRequest, Question, Callable[[], None]], Explained]
"""Answers a question about what a request draws; the last argument is called before every forward and may raise."""


def explain_request(
    pipeline: HybridStitchPipeline, request: GenerationRequest, question: Question, check: Callable[[], None]
) -> Explained:
    """Draw a request that was parsed with the pipeline's own catalogue and size limits, and explain the picture."""
    from hybridstitch.explain import explain

    found = explain(
        pipeline,
        request.prompt,
        target=question.target,
        method=question.method,
        region=request.region,
        steps_explained=question.steps_explained,
        gradient_steps=question.gradient_steps,
        seed=request.seed,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        recipe=request.recipe,
        speed=request.speed,
        check=check,
    )
    recipe = pipeline.catalogue.resolve(found.report["recipe"])
    made = replace(request, recipe=recipe, speed=None)  # a speed may mean another recipe tomorrow
    return Explained(Rendering(made, [found.image], found.report), question, found)


def encode_explanation(explained: Explained) -> Answer:
    """The answer, with the headers that a picture's answer has."""
    return json_answer(explanation_document(explained), headers_of(explained.rendering))


def explanation_document(explained: Explained) -> dict[str, Any]:
    """The json answer of the picture, and beside it what was found; see docs/interface.md."""
    rendering, found = explained.rendering, explained.found
    heat = found.heatmaps.cpu().numpy()
    # To target region, the region is a question about the picture and had no part in it.
    asked_only = explained.question.target == "region"
    drawn = replace(rendering, request=replace(rendering.request, region=None)) if asked_only else rendering
    delta = found.convergence_delta
    return {
        **document_of(drawn),
        "words": [_word(word, each) for word, each in zip(found.words, heat, strict=True)],
        "heatmap_png_b64": _png(_overlay(found.image, heat.sum(axis=0))),
        "mask": None if found.mask is None else _mask(found.mask.cpu().numpy()),
        "target": found.target,
        "method": found.method,
        "baseline": found.baseline,
        "steps_explained": list(found.steps_explained),
        "forwards": found.forwards,
        **({} if delta is None else {"convergence_delta": _short(delta)}),
        "request": _request(rendering.request, explained.question),
    }


def _word(word: Word, heat: np.ndarray) -> dict[str, Any]:
    """heat: `(rows, columns)`; the picture of it has a grey pixel for each token, white for the hottest one."""
    hottest = float(heat.max())
    grey = np.rint(255 * heat / (hottest or 1)).astype(np.uint8)
    return {
        **asdict(word),
        "score": _short(word.score),
        "heat_max": _short(hottest),
        "heatmap_png_b64": _png(Image.fromarray(grey)),
    }


def _mask(mask: np.ndarray) -> dict[str, Any]:
    return {"grid": list(mask.shape), "tokens": np.flatnonzero(mask).tolist()}


def _request(request: GenerationRequest, question: Question) -> dict[str, Any]:
    """The request that makes this explanation again."""
    fields = {name: value for name, value in request.to_dict().items() if name not in FIXED}
    return fields | asdict(question)


def _overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((OVERLAY_PIXELS, OVERLAY_PIXELS))
    return tinted(small, heat / (heat.max() or 1), Image.Resampling.BICUBIC)


def _png(image: Image.Image) -> str:
    return base64_text(encode_image(image, "png"))


def _short(value: float) -> float:
    """Six digits: more would be noise."""
    return float(f"{value:.6g}")
