"""`hybridstitch explain`: which words made a picture what it is, as a page."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.answers import unexpected
from hybridstitch.serving.explain_check import explanation_problems
from hybridstitch.serving.request_options import (
    FIELDS,
    add_request_options,
    add_server_options,
    given_fields,
    open_client,
)

PAGES = (".html", ".htm")
QUESTION = ("target", "method", "steps_explained", "gradient_steps")
"""The options that are fields of an explanation alone."""
BAR = 24
"""Characters of the longest bar."""


def explain(options: argparse.Namespace) -> None:
    """Say which words of a prompt made the picture, its mask or a region of it what it is, and where each one acts."""
    from hybridstitch.serving.explain_page import render

    if options.out.suffix.lower() not in PAGES:
        raise InvalidInput([Problem("out", f"a file name ending in {', '.join(PAGES)}", str(options.out))])
    fields = given_fields(options, (*FIELDS, *QUESTION))
    document = _ask_server(fields, options) if options.url else _explain_here(fields, options)
    options.out.write_text(render(document))
    print(json.dumps(document) if options.json else "\n".join([*word_lines(document), str(options.out)]))


def word_lines(document: dict[str, Any]) -> list[str]:
    """A line for each word, with a bar as long as its score is large."""
    words = document["words"]
    widest = max(len(word["text"]) for word in words)
    largest = max(abs(word["score"]) for word in words) or 1
    return [
        f"{word['text']:<{widest}} {word['score']:>12.4g} {'#' * round(BAR * abs(word['score']) / largest)}".rstrip()
        for word in words
    ]


def _ask_server(fields: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    document = open_client(options).explain(**fields, model=options.model)
    if problems := explanation_problems(document):
        raise unexpected(f"the answer is no explanation: {'; '.join(map(str, problems))}")
    return document


def _explain_here(fields: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    from hybridstitch import HybridStitchPipeline
    from hybridstitch.serving.explain import parse_explanation
    from hybridstitch.serving.explain_answer import explain_request, explanation_document

    pipeline = HybridStitchPipeline.from_pretrained(options.pair)
    request, question = parse_explanation(fields, {}, pipeline.size_limits, pipeline.catalogue)
    started = time.monotonic()

    def check() -> None:
        if request.deadline_ms is not None and 1000 * (time.monotonic() - started) > request.deadline_ms:
            raise TimeoutError(f"deadline_ms: {request.deadline_ms} ms have passed before the answer was ready")

    return explanation_document(explain_request(pipeline, request, question, check))


def add_command(commands: Any, pair: Path) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("explain", help=explain.__doc__, description=explain.__doc__)
    command.set_defaults(run=explain)
    add_request_options(
        command,
        seed="of the picture (random)",
        region="with target region: the part of the picture in question; otherwise the large model draws all of it",
    )
    command.add_argument("--target", help="mask (why these tokens are the large model's), region or image (mask)")
    command.add_argument("--method", help="ablation or integrated_gradients (ablation)")
    command.add_argument("--steps-explained", type=int, help="so many steps, spread evenly: fewer cost less")
    command.add_argument("--gradient-steps", type=int, help="of integrated gradients: more are nearer to complete")
    command.add_argument("--out", type=Path, default="explain.html", help="the page (%(default)s)")
    command.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    add_server_options(command, pair)
