"""`hybridstitch compare`: two endpoints side by side, people's preferences, and a share of real requests."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.bench.options import several, whole
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.prompt_files import BUILT_IN, KINDS

if TYPE_CHECKING:
    from hybridstitch.compare.comparison import Comparison


def compare(options: argparse.Namespace) -> None:
    """Two endpoints on the same prompts and seeds: how much faster is B, are its pictures as good, how sure is that?"""
    comparison = _comparison(options)
    report = comparison.run(options.out, _tokens(options))
    print(json.dumps(report, indent=1) if options.json else f"{report['sentence']}\n{options.out / 'report.html'}")
    if not report["passed"]:
        raise RuntimeError(f"the answer is no: {report['summary']}")


def rate(options: argparse.Namespace) -> None:
    """Show the pairs of a comparison to a person, in hidden order, and ask which picture is better."""
    from hybridstitch.compare.comparison import Comparison
    from hybridstitch.compare.folder import Folder
    from hybridstitch.compare.rate import Rating

    folder = Folder(options.folder)
    comparison = Comparison.from_dict(folder.settings)
    with Rating(comparison, folder, options.port) as rating:
        said = f"{rating.left_to_judge} pairs to judge: {rating.url}\nCtrl-C ends; what was judged is kept."
        print(said, file=sys.stderr if options.json else sys.stdout, flush=True)
        rating.wait()
    report = comparison.report(folder)
    print(json.dumps(report["preference"], indent=1) if options.json else options.folder / "report.html")


def shadow(options: argparse.Namespace) -> None:
    """Send a share of given requests to both endpoints, and report how they drift apart over time."""
    from hybridstitch.compare.endpoints import open_endpoint, parse_endpoint
    from hybridstitch.compare.shadow import Shadow, read_requests

    _require(options, ("a", "b", "out"))
    requests = read_requests(options.requests)
    tokens = _tokens(options)
    endpoints = {}
    problems: list[Problem] = []
    for side in ("a", "b"):
        try:
            spec = parse_endpoint(getattr(options, side), side)
            endpoints[side] = open_endpoint(spec, tokens[side], options.timeout, side)
        except InvalidInput as error:
            problems += error.problems
    raise_if(problems)
    with Shadow(
        endpoints, options.out, options.share, options.order_seed, options.limit, options.window, replay=True
    ) as running:
        for request in requests:
            running.offer(request, wait=True)
    print(
        json.dumps(running.report, indent=1) if options.json else f"{running.sentence}\n{options.out / 'shadow.html'}"
    )


def _comparison(options: argparse.Namespace) -> Comparison:
    from hybridstitch.compare.comparison import Comparison
    from hybridstitch.compare.metrics import Measures
    from hybridstitch.compare.run import Load
    from hybridstitch.prompt_files import read_prompts

    _require(options, ("a", "b", "out"))
    problems: list[Problem] = []

    def attempt(make: Any, otherwise: Any) -> Any:
        try:
            return make()
        except InvalidInput as error:
            problems.extend(error.problems)
            return otherwise

    prompts = attempt(lambda: read_prompts(options.prompts, options.count), [""])
    load = attempt(lambda: Load(options.concurrency, options.rate, options.block, options.pause), Load())
    limits = attempt(lambda: _limits(options.limit), {})
    comparison = attempt(
        lambda: Comparison(
            a=options.a,
            b=options.b,
            prompts=prompts,
            prompts_from=options.prompts,
            seeds=options.seeds,
            load=load,
            warmup=options.warmup,
            order_seed=options.order_seed,
            timeout=options.timeout,
            measures=Measures(options.distance, options.quality, options.extra_module),
            limits=limits,
            margin=options.margin,
            speedup=options.min_speedup,
            alpha=options.alpha,
            until_decided=options.until_decided,
        ),
        None,
    )
    raise_if(problems)
    return comparison


def _limits(given: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    problems = []
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            problems.append(Problem("limit", "METRIC=NUMBER", text))
    raise_if(problems)
    return found


def _require(options: argparse.Namespace, names: tuple[str, ...]) -> None:
    missing = [Problem(name, f"--{name}", None) for name in names if getattr(options, name) is None]
    raise_if(missing)


def _tokens(options: argparse.Namespace) -> Mapping[str, str | None]:
    from hybridstitch.compare.endpoints import read_token

    return {"a": read_token("a", options.key_file_a), "b": read_token("b", options.key_file_b)}


def add_command(commands: Any) -> None:
    """Declare the command, its two companions and their options."""
    command = commands.add_parser("compare", help=compare.__doc__, description=compare.__doc__)
    command.set_defaults(run=compare)
    _add_endpoints(command)
    command.add_argument("--prompts", default=BUILT_IN, help=f"a {KINDS} file (%(default)s, the embedded pair's)")
    command.add_argument("--count", type=whole(1), help="how many of them, evenly spread (all)")
    command.add_argument("--seeds", type=several(int), default=[0, 1], help="comma-separated (0,1)")
    command.add_argument("--concurrency", type=whole(1), default=1, help="requests in flight (%(default)s)")
    command.add_argument("--rate", type=float, help="instead: requests a second, answered or not")
    command.add_argument(
        "--block", type=whole(1), help="requests to one side before the other's turn (the concurrency)"
    )
    command.add_argument("--pause", type=float, default=0.0, help="seconds before each block (%(default)s)")
    command.add_argument(
        "--warmup", type=whole(0), default=2, help="requests to each side that do not count (%(default)s)"
    )
    command.add_argument("--distance", metavar="efficientnet|MODULE:FUNCTION", help="a perceptual distance to measure")
    command.add_argument("--quality", metavar="MODULE:FUNCTION", help="of a picture and its prompt; higher is better")
    command.add_argument("--extra-module", action="append", default=[], help="a Python file that these name")
    command.add_argument(
        "--limit", action="append", default=[], metavar="METRIC=NUMBER",
        help="what B's mean nearness must be above, for distances below (psnr_db=30 and ssim=0.95)",
    )  # fmt: skip
    command.add_argument("--margin", type=float, help="how much worse B's mean quality may be")
    command.add_argument(
        "--min-speedup", type=float, default=1.0, help="B must be faster than this many times (%(default)s)"
    )
    command.add_argument("--alpha", type=float, default=0.05, help="the chance of a wrong claim (%(default)s)")
    command.add_argument("--until-decided", action="store_true", help="stop as soon as the answer is certain enough")

    companions = command.add_subparsers(metavar="rate | shadow")
    command = companions.add_parser("rate", help=rate.__doc__, description=rate.__doc__)
    command.set_defaults(run=rate)
    command.add_argument("folder", type=Path, help="of a comparison, its --out")
    command.add_argument(
        "--port", type=whole(0), default=0, help="on this machine alone; 0 picks a free one (%(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print what people preferred")
    command = companions.add_parser("shadow", help=shadow.__doc__, description=shadow.__doc__)
    command.set_defaults(run=shadow)
    _add_endpoints(command)
    command.add_argument("--requests", type=Path, required=True, help="a .jsonl file of requests, each with a prompt")
    command.add_argument("--share", type=float, default=0.1, help="of the requests, 0 to 1 (%(default)s)")
    command.add_argument("--limit", type=whole(1), default=1000, help="requests that are sent at most (%(default)s)")
    command.add_argument("--window", type=whole(2), default=20, help="pairs of one window of time (%(default)s)")


def _add_endpoints(command: argparse.ArgumentParser) -> None:
    command.add_argument("--a", metavar="ENDPOINT", help="what is in use: URL or pair folder, then #field=value&…")
    command.add_argument("--b", metavar="ENDPOINT", help="the candidate")
    for side in ("a", "b"):
        words = f"key_file.json of {side.upper()}'s server, else HYBRIDSTITCH_TOKEN_{side.upper()} is its token"
        command.add_argument(f"--key-file-{side}", type=Path, metavar="FILE", help=words)
    command.add_argument("--out", type=Path, help="folder; an interrupted run goes on there")
    command.add_argument("--timeout", type=float, default=600, help="seconds for one answer (%(default)s)")
    command.add_argument("--order-seed", type=int, default=0, help="of the order, or of the sample (%(default)s)")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
