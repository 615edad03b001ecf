"""An explanation as one page that needs nothing else: no network, no script, light and dark, desk and phone."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from hybridstitch.errors import raise_problems
from hybridstitch.html.document import definitions, document, table
from hybridstitch.html.explanation_check import explanation_problems
from hybridstitch.html.explanation_words import heat_meaning, meaning, summary

COOL, HOT = np.array([255, 90, 0]), np.array([255, 240, 60])
"""Colours of a token that a word hardly moves, and of the one that is moved the most."""
OPAQUE = 230
"""Alpha of the hottest token, of 255: the picture must shine through."""
LONG = 90
"""Characters of a prompt that are too many for large letters."""
NOT_OPTIONS = ("prompt", "output_format", "output_quality")
"""Fields of the request that the command of the page does not repeat as options."""

Answer = Mapping[str, Any]


def render(answer: Answer) -> str:
    """The page of an answer of `/explanations` (JSON). Raises InvalidInput with every field that is wrong in it."""
    raise_problems(explanation_problems(answer))
    body = [
        _picture_once(answer),
        _head(answer),
        *(f'<p class="warning" role="note">{escape(each)}</p>' for each in answer["warnings"]),
        _section("The picture", _pictures(answer)),
        _section("Where each word acts", _maps(answer)),
        _section("The numbers", _numbers(answer)),
        _section("How this was made", _settings(answer)),
    ]
    style = files("hybridstitch.html").joinpath("explanation.css").read_text()
    return document(f"Why: {answer['request']['prompt']}", "".join(body), more_style=style)


def _section(title: str, body: str) -> str:
    name = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{body}</section>\n'


def _picture_once(answer: Answer) -> str:
    """The picture, which everything below shows again without a second copy in the file."""
    rows, columns = answer["report"]["mask"]["grid"]
    kind, content = answer["request"]["output_format"], answer["data"][0]["b64_json"]
    return (
        f'<svg class="once" aria-hidden="true"><defs><image id="picture" width="{columns}" height="{rows}" '
        f'preserveAspectRatio="none" href="data:image/{kind};base64,{content}"/></defs></svg>\n'
    )


def _head(answer: Answer) -> str:
    request = answer["request"]
    size = " long" if len(request["prompt"]) > LONG else ""
    return (
        f'<header class="why"><p class="eyebrow">Explanation of the {escape(answer["target"])} · seed '
        f"{answer['data'][0]['seed']} · {escape(answer['report']['recipe']['name'])}</p>"
        f'<h1 class="prompt{size}">{_coloured(request["prompt"], answer["words"])}</h1>'
        f'<p class="lead">{escape(summary(answer))}</p><p class="small">{escape(meaning(answer))}</p></header>\n'
    )


def _coloured(prompt: str, words: list[dict[str, Any]]) -> str:
    """The prompt, each word on a ground as strong as its score beside the strongest one."""
    largest = max(abs(word["score"]) for word in words) or 1
    found, last = [], 0
    for word in words:
        share = round(100 * abs(word["score"]) / largest)
        title = f"{escape(word['text'])}: {_score(word)}"
        found.append(escape(prompt[last : word["start"]]))
        found.append(
            f'<mark class="{_sign(word)}" style="--share: {share}%" title="{title}">'
            f"{escape(prompt[word['start'] : word['end']])}</mark>"
        )
        last = word["end"]
    return "".join(found) + escape(prompt[last:])


def _score(word: Mapping[str, Any]) -> str:
    """Three digits; 0 without a sign."""
    return f"{word['score']:.3g}" if word.get("read", True) else "not read"


def _sign(word: Mapping[str, Any]) -> str:
    return "against" if word["score"] < 0 else "for"


def _pictures(answer: Answer) -> str:
    heats = [_heat(word) for word in answer["words"]]
    total = np.sum(heats, axis=0)
    prompt = escape(answer["request"]["prompt"], quote=True)
    found = [_panel(answer, f"The picture of: {prompt}", "", "the picture")]
    if answer["mask"]:
        chosen = {"mask": "the tokens that the mask chose in the steps explained", "region": "the region in question"}
        said = chosen[answer["target"]]
        found.append(_panel(answer, said, _outline(answer["mask"]), said))
    found.append(_panel(answer, "Where the words act", _layer(total / (total.max() or 1)), "where all words act"))
    return f'<div class="maps three">{"".join(found)}</div>'


def _maps(answer: Answer) -> str:
    heats = [_heat(word) for word in answer["words"]]
    hottest = max(float(heat.max()) for heat in heats) or 1
    outline = _outline(answer["mask"]) if answer["mask"] else ""
    panels = [
        _panel(
            answer,
            f"Where {escape(word['text'], quote=True)} acts",
            _layer(heat / hottest) + outline,
            f"<b>{escape(word['text'])}</b> {_score(word)}",
        )
        for word, heat in zip(answer["words"], heats, strict=True)
    ]
    says = f"<p>{escape(heat_meaning(answer))}</p>"
    return f'{says}<div class="maps">{"".join(panels)}</div>'


def _panel(answer: Answer, label: str, above: str, caption: str) -> str:
    """The picture with something above it; grey then, so that only the heat has a colour."""
    rows, columns = answer["report"]["mask"]["grid"]
    tone = ' class="grey"' if "<image" in above else ""
    return (
        f'<figure><svg viewBox="0 0 {columns} {rows}" role="img" aria-label="{label}">'
        f'<use href="#picture"{tone}/>{above}</svg><figcaption>{caption}</figcaption></figure>'
    )


def _heat(word: Mapping[str, Any]) -> np.ndarray:
    """The word's heat `(rows, columns)`."""
    grey = Image.open(io.BytesIO(base64.b64decode(word["heatmap_png_b64"])))
    return np.asarray(grey, dtype=np.float64) * (word["heat_max"] / 255)


def _layer(strength: np.ndarray) -> str:
    """Heat, 0 to 1, as a picture with a pixel for each token, which the browser enlarges."""
    rows, columns = strength.shape
    colour = COOL + (HOT - COOL) * strength[..., None]
    pixels = np.concatenate([colour, OPAQUE * strength[..., None]], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8), "RGBA").save(buffer, format="png")
    content = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<image class="heat" width="{columns}" height="{rows}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{content}"/>'
    )


def _outline(mask: Mapping[str, Any]) -> str:
    """The border of the mask's tokens, dark beneath light, so that it shows on every picture."""
    rows, columns = mask["grid"]
    inside = np.zeros((rows + 2, columns + 2), dtype=bool)
    inside[1:-1, 1:-1].flat[mask["tokens"]] = True
    across = np.argwhere(inside[1:, 1:-1] != inside[:-1, 1:-1])
    down = np.argwhere(inside[1:-1, 1:] != inside[1:-1, :-1])
    path = "".join([*(f"M{x} {y}h1" for y, x in across), *(f"M{x} {y}v1" for y, x in down)])
    return f'<path class="edge under" d="{path}"/><path class="edge" d="{path}"/>'


def _numbers(answer: Answer) -> str:
    words = answer["words"]
    largest = max(abs(word["score"]) for word in words) or 1
    rows = [
        [
            f'<span class="{_sign(word)}">{escape(word["text"])}</span>',
            f'<span class="bar" style="--share: {100 * abs(word["score"]) / largest:.1f}%"></span>',
            _score(word),
            f"{word['heat_max']:.3g}",
        ]
        for word in words
    ]
    return table(["word", "", "score", "hottest token"], rows) + _tiles(answer)


def _tiles(answer: Answer) -> str:
    steps, report = answer["steps_explained"], answer["report"]
    named = f"step{'s' * (len(steps) != 1)} {', '.join(str(step + 1) for step in steps)}"
    tiles = [
        ("Cost", str(answer["forwards"]), "forwards of a transformer, beyond those of the picture"),
        ("Steps explained", str(len(steps)), f"{named} of {len(report['mask']['share_by_step'])}"),
        ("Large model's share", f"{100 * report['large_token_share']:.0f} %", "of the token-steps of the picture"),
    ]
    if "convergence_delta" in answer:
        delta = 100 * answer["convergence_delta"]
        tiles.append(("Convergence delta", f"{delta:.2f} %", "of the whole effect: how far the scores' sum is off"))
    cells = "".join(
        f"<div><dt>{name}</dt><dd><b>{value}</b><small>{below}</small></dd></div>" for name, value, below in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def _settings(answer: Answer) -> str:
    report = answer["report"]
    known = {
        "method": answer["method"],
        "without a word means": answer["baseline"],
        **{name: value for name, value in answer["request"].items() if value not in (None, "")},
        "milliseconds for the picture": report["timing_ms"],
    }
    return f"<h3>Make it again</h3><pre><code>{escape(command(answer))}</code></pre>{definitions(known)}"


def command(answer: Answer) -> str:
    """What makes this page again on the same pair."""
    options = ["hybridstitch", "explain", answer["request"]["prompt"]]
    for name, value in answer["request"].items():
        is_idle = name == "gradient_steps" and answer["method"] == "ablation"
        if name not in NOT_OPTIONS and value not in (None, "") and not is_idle:
            options += [f"--{name.replace('_', '-')}", _option(name, value, answer["report"]["recipe"])]
    return shlex.join(options)


def _option(name: str, value: Any, recipe: Mapping[str, Any]) -> str:
    if name == "recipe":
        return json.dumps(recipe) if recipe["name"] in ("custom", "tuned") else recipe["name"]
    return ",".join(map(str, value)) if name == "region" else str(value)
