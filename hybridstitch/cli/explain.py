"""`hybridstitch explain`: the effect of each word of a prompt on a picture, as a page."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from hybridstitch.base.extras import require
from hybridstitch.base.words import word_problem
from hybridstitch.cli.paths import file_to_write, make_folders
from hybridstitch.cli.request import (
    add_request_options,
    add_server_options,
    given_fields,
    open_client,
    open_for,
    request_problems,
)
from hybridstitch.cli.values import one_of, whole
from hybridstitch.errors import Problem, raise_problems

PAGES = (".html", ".htm")
TARGETS, METHODS = ("mask", "region", "image"), ("ablation", "integrated_gradients")
QUESTION = ("target", "method", "steps_explained", "gradient_steps")
"""The options that are fields of an explanation alone."""
BAR = 24
"""Characters of the longest bar."""


def explain(options: argparse.Namespace) -> None:
    """Explain which words of a prompt shaped the picture, its mask or a region of it, and where each word acts."""
    from hybridstitch.html.explanation import render

    make_folders(options.out)
    fields = given_fields(options, QUESTION)
    document = _request_server(fields, options) if options.url else _explain_here(fields, options)
    options.out.write_text(render(document))
    print(json.dumps(document) if options.json else "\n".join([*word_lines(document), str(options.out)]))


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every option that is wrong."""
    problems = request_problems(options)
    if options.target == "region" and options.region is None:
        problems.append(Problem("region", "X0,Y0,X1,Y1 with --target region", None))
    if not any(problem.field == "prompt" for problem in problems) and (wrong := word_problem(options.prompt)):
        problems.append(wrong)
    raise_problems(problems)


def word_lines(document: dict[str, Any]) -> list[str]:
    """Return a line for each word, with a bar of a length proportional to its score."""
    words = document["words"]
    widest = max(len(word["text"]) for word in words)
    largest = max(abs(word["score"]) for word in words) or 1
    return [
        f"{word['text']:<{widest}} {_score(word):>12} {'#' * round(BAR * abs(word['score']) / largest)}".rstrip()
        for word in words
    ]


def _score(word: dict[str, Any]) -> str:
    return f"{word['score']:.3g}" if word.get("read", True) else "not read"


def _request_server(fields: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    from hybridstitch.html.explanation_check import explanation_problems
    from hybridstitch.serving.client.replies import unexpected

    document = open_client(options).explain(**fields, model=options.model)
    if problems := explanation_problems(document):
        raise unexpected(f"the answer is no explanation: {'; '.join(map(str, problems))}")
    return document


def _explain_here(fields: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    require("captum", "serve")  # before the pair is loaded
    from tqdm import tqdm

    from hybridstitch.serving.worker.explain import explain_request, explanation_document
    from hybridstitch.wire.question import parse_explanation

    pipeline = open_for(options, fields)
    pipeline.set_progress_bar_config(disable=True)
    request, question = parse_explanation(
        fields, {}, pipeline.size_limits, pipeline.catalogue, loras=pipeline.adapters.names
    )
    started = time.monotonic()

    def on_forward() -> None:
        progress.update()
        if request.deadline_ms is not None and 1000 * (time.monotonic() - started) > request.deadline_ms:
            raise TimeoutError(f"deadline_ms: {request.deadline_ms} ms have passed before the answer was ready")

    is_silent = options.json or not sys.stderr.isatty()
    with tqdm(desc="forwards", unit="", disable=is_silent, leave=False) as progress:
        return explanation_document(explain_request(pipeline, request, question, on_forward))


def add_command(commands: Any, pair: Path) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("explain", help=explain.__doc__, description=explain.__doc__)
    command.set_defaults(run=explain, check=check)
    add_request_options(
        command,
        seed="of the picture (random)",
        region="with target region: the part of the picture in question; otherwise the large model renders all of it",
    )
    command.add_argument(
        "--target", type=one_of(*TARGETS), help="mask (why these tokens are the large model's), region or image (mask)"
    )
    command.add_argument("--method", type=one_of(*METHODS), help="ablation or integrated_gradients (ablation)")
    command.add_argument("--steps-explained", type=whole(1, 100), help="how many steps, spread evenly; fewer cost less")
    command.add_argument(
        "--gradient-steps", type=whole(1, 256), help="of integrated gradients: more are nearer to complete"
    )
    command.add_argument("--out", type=file_to_write(*PAGES), default="explain.html", help="the page (%(default)s)")
    command.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    add_server_options(command, pair)
