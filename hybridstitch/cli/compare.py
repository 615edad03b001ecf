"""`hybridstitch compare`: two endpoints side by side, people's preferences, and a share of real requests."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hybridstitch.base.extra_modules import module_problems
from hybridstitch.base.prompt_files import BUILT_IN, KINDS
from hybridstitch.cli.paths import folder_to_write
from hybridstitch.cli.values import Unreadable, several, whole
from hybridstitch.errors import InvalidInput, Problem, raise_problems

if TYPE_CHECKING:
    from hybridstitch.compare.comparison import Comparison
    from hybridstitch.compare.endpoints.spec import Spec
    from hybridstitch.compare.shadow.shadow import Request

Made = TypeVar("Made")
Tokens = Mapping[str, str | None]
Headers = Mapping[str, Mapping[str, str]]
"""The headers of each side."""
SHARED = (
    *("a", "b", "key_file_a", "key_file_b", "header_a", "header_b"),
    *("out", "timeout", "order_seed", "json"),
)
"""Options of `compare` that `shadow` takes, too."""
REQUIRED = {
    "a": "the endpoint in use: a predictions URL or the folder of a packed pair",
    "b": "the candidate: a predictions URL or the folder of a packed pair",
    "out": "a folder for the report and the pictures",
}


def compare(options: argparse.Namespace) -> None:
    """Two endpoints on the same prompts and seeds: how much faster is B, are its pictures as good, how sure is that?"""
    from hybridstitch.compare import workflow
    from hybridstitch.compare.endpoints.spec import Credentials

    comparison, tokens, headers = _comparison(options)
    report = workflow.run(comparison, options.out, Credentials(tokens, headers))
    print(json.dumps(report, indent=1) if options.json else f"{report['sentence']}\n{options.out / 'report.html'}")
    if not report["passed"]:
        raise RuntimeError(f"the answer is no: {report['summary']}")


def rate(options: argparse.Namespace) -> None:
    """Show the pairs of a comparison to a person, in hidden order, and ask which picture is better."""
    from hybridstitch.compare import workflow
    from hybridstitch.compare.comparison import Comparison
    from hybridstitch.compare.review.server import Rating
    from hybridstitch.compare.run.folder import Folder

    folder = Folder(options.folder)
    comparison = Comparison.from_dict(folder.settings)
    with Rating(comparison, folder, options.port) as rating:
        said = f"{rating.left_to_judge} pairs to judge: {rating.url}\nCtrl-C ends; what was judged is kept."
        print(said, file=sys.stderr if options.json else sys.stdout, flush=True)
        rating.wait()
    report = workflow.report(comparison, folder)
    print(json.dumps(report["preference"], indent=1) if options.json else options.folder / "report.html")


def shadow(options: argparse.Namespace) -> None:
    """Send a share of given requests to both endpoints, and report how they drift apart over time."""
    from hybridstitch.compare.endpoints.spec import OF_THE_RUN, Credentials
    from hybridstitch.compare.run.warmup import open_warm
    from hybridstitch.compare.shadow.shadow import Shadow

    requests, known, tokens, headers = _shadowed(options)
    first = {name: value for name, value in requests[0].items() if name not in ("prompt", "seed", *OF_THE_RUN)}
    endpoints, _ = open_warm(known, Credentials(tokens, headers), options.timeout, requests[0]["prompt"], 0, 1, first)
    with Shadow(
        endpoints, options.out, options.share, options.order_seed, options.most, options.window, replay=True
    ) as running:
        for request in requests:
            running.offer(request, wait=True)
    print(
        json.dumps(running.report, indent=1) if options.json else f"{running.sentence}\n{options.out / 'shadow.html'}"
    )


def _shadowed(options: argparse.Namespace) -> tuple[list[Request], dict[str, Spec], Tokens, Headers]:
    """Return requests, endpoints and credentials. Raises InvalidInput that names every wrong option."""
    from hybridstitch.compare.endpoints.spec import parse_endpoint
    from hybridstitch.compare.run.folder import SHADOW
    from hybridstitch.compare.run.order import SIDES
    from hybridstitch.compare.shadow.shadow import read_requests

    _require(options, ("a", "b", "out"))
    problems = _out_problems(options, SHADOW)
    requests = _attempt(problems, lambda: read_requests(options.requests)) or []
    specs = {side: _attempt(problems, partial(parse_endpoint, getattr(options, side), side)) for side in SIDES}
    tokens, headers = _credentials(problems, options)
    raise_problems(problems)
    return requests, {side: spec for side, spec in specs.items() if spec}, tokens, headers


def _comparison(options: argparse.Namespace) -> tuple[Comparison, Tokens, Headers]:
    from hybridstitch.base.prompt_files import read_prompts
    from hybridstitch.compare.comparison import Comparison
    from hybridstitch.compare.measures import Measures
    from hybridstitch.compare.run.folder import COMPARISON
    from hybridstitch.compare.run.run import Load

    _require(options, ("a", "b", "out"))
    problems = _out_problems(options, COMPARISON) + module_problems([Path(each) for each in options.extra_module])
    prompts = _attempt(problems, lambda: read_prompts(options.prompts, options.count)) or ["any"]
    load = _attempt(problems, lambda: Load(options.concurrency, options.rate, options.block, options.pause)) or Load()
    limits = _attempt(problems, lambda: _limits(options.limit)) or {}
    tokens, headers = _credentials(problems, options)
    comparison = _attempt(
        problems,
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
    )
    raise_problems(problems)
    assert comparison is not None
    return comparison, tokens, headers


def _out_problems(options: argparse.Namespace, kind: str) -> list[Problem]:
    """Return what is wrong with the folder of a run. kind: The kind of run that it may hold already."""
    from hybridstitch.compare.run.folder import settings_of

    out = folder_to_write(str(options.out))
    if isinstance(out, Unreadable):
        return [Problem("out", out.expected, out.got)]
    problems: list[Problem] = []
    _attempt(problems, lambda: settings_of(options.out, kind))
    return problems


def _attempt(problems: list[Problem], make: Callable[[], Made]) -> Made | None:
    """Return the result of `make`; for wrong input add its problems to the list and return None."""
    try:
        return make()
    except InvalidInput as error:
        problems.extend(error.problems)
        return None


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
            problems.append(Problem("limit", "MEASURE=NUMBER", text))
    raise_problems(problems)
    return found


def _require(options: argparse.Namespace, names: tuple[str, ...]) -> None:
    missing = [Problem(name, REQUIRED[name], None) for name in names if getattr(options, name) is None]
    raise_problems(missing)


def _credentials(problems: list[Problem], options: argparse.Namespace) -> tuple[Tokens, Headers]:
    """Return the tokens and the headers of both sides."""
    from hybridstitch.compare.endpoints.headers import read_headers
    from hybridstitch.compare.endpoints.open import read_token

    tokens: dict[str, str | None] = {}
    headers: dict[str, Mapping[str, str]] = {}
    for side in ("a", "b"):
        given = [*getattr(options, f"header_{side}"), *getattr(options, f"more_header_{side}", [])]
        tokens[side] = _attempt(problems, partial(read_token, side, getattr(options, f"key_file_{side}")))
        headers[side] = _attempt(problems, partial(read_headers, side, given)) or {}
    return tokens, headers


def _no_others(command: argparse.ArgumentParser, taken: tuple[str, ...]) -> Callable[[argparse.Namespace], None]:
    """Return a check that no option of `compare` was given beside a subcommand that does not take it."""
    own = {action.dest: action for action in command._actions if action.option_strings and action.dest not in taken}

    def check(options: argparse.Namespace) -> None:
        raise_problems(
            [
                Problem(action.option_strings[0], "no option of `compare` alone beside this command", value)
                for name, action in own.items()
                if (value := getattr(options, name, action.default)) != action.default
            ]
        )

    return check


def add_command(commands: Any) -> None:
    """Declare the command, its two subcommands and their options."""
    command = commands.add_parser("compare", help=compare.__doc__, description=compare.__doc__)
    command.set_defaults(run=compare, check=_comparison)
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
        "--limit", action="append", default=[], metavar="MEASURE=NUMBER",
        help="what B's mean nearness must be above, for distances below (psnr_db=30 and ssim=0.95)",
    )  # fmt: skip
    command.add_argument("--margin", type=float, help="how much worse B's mean quality may be")
    command.add_argument(
        "--min-speedup", type=float, default=1.0, help="B must be faster than this many times (%(default)s)"
    )
    command.add_argument("--alpha", type=float, default=0.05, help="the chance of a wrong claim (%(default)s)")
    command.add_argument("--until-decided", action="store_true", help="stop as soon as the answer is certain enough")

    companions = command.add_subparsers(metavar="rate | shadow")
    _add_rate(companions, _no_others(command, ("help", "json")))
    _add_shadow(companions, _no_others(command, ("help", *SHARED)))


def _add_rate(companions: Any, check: Callable[[argparse.Namespace], None]) -> None:
    command = companions.add_parser("rate", help=rate.__doc__, description=rate.__doc__)
    command.set_defaults(run=rate, check=check)
    command.add_argument("folder", type=Path, help="of a comparison, its --out")
    command.add_argument(
        "--port", type=whole(0), default=0, help="on this machine alone; 0 picks a free one (%(default)s)"
    )
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print what people preferred")


def _add_shadow(companions: Any, check: Callable[[argparse.Namespace], None]) -> None:
    def check_all(options: argparse.Namespace) -> None:
        check(options)
        _shadowed(options)

    command = companions.add_parser("shadow", help=shadow.__doc__, description=shadow.__doc__)
    command.set_defaults(run=shadow, check=check_all)
    _add_endpoints(command, companion=True)
    command.add_argument("--requests", type=Path, required=True, help="a .jsonl file of requests, each with a prompt")
    command.add_argument("--share", type=float, default=0.1, help="of the requests, 0 to 1 (%(default)s)")
    command.add_argument(
        "--limit", dest="most", type=whole(1), default=1000, help="requests that are sent at most (%(default)s)"
    )
    command.add_argument("--window", type=whole(2), default=20, help="pairs of one window of time (%(default)s)")


def _add_endpoints(command: argparse.ArgumentParser, companion: bool = False) -> None:
    """Declare options that may come before or after the name of a subcommand.

    companion: Whether this is a subcommand. Its defaults must not replace a value from before its name.
    """

    def add(name: str, default: Any = None, **more: Any) -> None:
        command.add_argument(name, default=argparse.SUPPRESS if companion else default, **more)

    add("--a", metavar="ENDPOINT", help="what is in use: URL or pair folder, then #field=value&…")
    add("--b", metavar="ENDPOINT", help="the candidate")
    for side in ("a", "b"):
        words = f"key_file.json of {side.upper()}'s server, else HYBRIDSTITCH_TOKEN_{side.upper()} is its token"
        add(f"--key-file-{side}", type=Path, metavar="FILE", help=words)
    for side in ("a", "b"):
        words = f"'NAME: VALUE' that {side.upper()}'s server wants, such as x-api-key; @FILE for a value in a file"
        dest = f"more_header_{side}" if companion else f"header_{side}"
        add(f"--header-{side}", [], dest=dest, action="append", metavar="HEADER", help=words)
    add("--out", type=Path, help="folder; an interrupted run goes on there")
    add("--timeout", 600.0, type=float, help="seconds for one answer (600)")
    add("--order-seed", 0, type=int, help="of the order, or of the sample (0)")
    add("--json", False, action="store_true", help="print the report as JSON")
