"""The answer to a request for an explanation: a JSON document with words, scores, heat maps and the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hybridstitch.base.images import base64_text, encode_image
from hybridstitch.base.overlay import tinted
from hybridstitch.pipeline import HybridStitchPipeline
from hybridstitch.wire.documents import Rendering, Response, document_of, headers_of, json_response
from hybridstitch.wire.question import FIXED, Question
from hybridstitch.wire.request import GenerationRequest

if TYPE_CHECKING:
    from hybridstitch.explain import Explanation, Word

OVERLAY_PIXELS = 512
"""The longer side of the overlay, at most, so that answers stay small."""


@dataclass(frozen=True)
class Explained:
    """A picture, the request that makes it again, the question about it and what was found."""

    rendering: Rendering
    question: Question
    found: Explanation


Explainer = Callable[[GenerationRequest, Question, Callable[[], None]], Explained]
"""Answers a question about the picture of a request. The last argument is called before every forward and may raise."""


def explain_request(
    pipeline: HybridStitchPipeline, request: GenerationRequest, question: Question, check: Callable[[], None]
) -> Explained:
    """Generate the picture of a request that was parsed with the pipeline's catalogue and limits, and explain it.

    Args:
        pipeline: The pair.
        request: A request for one picture.
        question: What to explain of it.
        check: Called before every forward; an exception in it ends the work.
    """
    from hybridstitch.explain.explain import explain_generation

    found = explain_generation(pipeline, request.generation, **vars(question), check=check)
    return Explained(Rendering(request.reproducible(), [found.image], found.report), question, found)


def encode_explanation(explained: Explained) -> Response:
    """Encode the answer, with the headers of a picture's answer."""
    return json_response(explanation_document(explained), headers_of(explained.rendering))


def explanation_document(explained: Explained) -> dict[str, Any]:
    """Return the json answer of the picture together with the explanation; see docs/interface.md."""
    rendering, found = explained.rendering, explained.found
    heat = found.heatmaps.cpu().numpy()
    delta = found.convergence_delta
    return {
        **document_of(rendering),
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
    """Describe a word. heat: `(rows, columns)`; its picture has a grey pixel for each token, white for the hottest."""
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
    """Return the request that makes this explanation again."""
    fields = {name: value for name, value in request.to_dict().items() if name not in FIXED}
    return fields | question.to_dict()


def _overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((OVERLAY_PIXELS, OVERLAY_PIXELS))
    return tinted(small, heat / (heat.max() or 1), Image.Resampling.BICUBIC)


def _png(image: Image.Image) -> str:
    return base64_text(encode_image(image, "png"))


def _short(value: float) -> float:
    """Round to six digits: more would be noise."""
    return float(f"{value:.6g}")
