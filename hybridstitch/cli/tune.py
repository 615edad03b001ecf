"""`hybridstitch tune`: searches the recipes of a pair with the highest fidelity at each cost."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.base.extras import MissingExtra
from hybridstitch.base.paths import CALIBRATION_FILE, HELD_OUT_FILE
from hybridstitch.base.progress import say
from hybridstitch.base.prompt_files import KINDS, read_prompts
from hybridstitch.cli.interrupts import interruptible
from hybridstitch.cli.options import add_common, common_problems, defined, find_prompts, open_pipe
from hybridstitch.cli.pair import pair_folder
from hybridstitch.cli.paths import file_to_read, file_to_write, make_folders
from hybridstitch.cli.values import number, several
from hybridstitch.errors import Problem, collected, raise_problems
from hybridstitch.recipe.names import TUNED_FILE

if TYPE_CHECKING:
    from hybridstitch.tune.points import Trial

QUICK, THOROUGH = 60.0, 500.0
"""Work of a search in plain pictures: those of the large model at all steps."""
PLUS = "hybridstitch-plus"
"""Name of the best stitched recipe. A search that tries none keeps the pair's."""
QUICK_PROMPTS, PROMPTS = 6, 16
"""Prompts of a search. More of them fit weights that serve other prompts better (docs/benchmarks.md)."""


def tune(options: argparse.Namespace) -> None:
    """Search the recipes of highest fidelity at each cost and write them to a file, for the speed dial."""
    out = _out(options)
    make_folders(out)
    kept = f"interrupted: the measurements so far are kept in {_trials(out)}; the same command continues from there"
    with interruptible(kept):
        found = _search(options, out)
    print(out.read_text() if options.json else out)
    for trial in [] if options.json else found:
        print(f"{trial.speed:6.2f}x  {trial.psnr_db:5.1f} dB at {trial.guidance_scale:g}  {trial}")
    reached = {trial.guidance_scale for trial in found if trial.psnr_db >= options.floor}
    if reached != {*options.guidance_scales}:
        raise RuntimeError(f"nothing found at {options.speed:g}x and {options.floor:g} dB; see {out}")


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every wrong option."""
    problems = common_problems(options)
    folder = pair_folder(options)
    with collected(problems):
        prompts = _prompts(options)
        own = folder and folder / HELD_OUT_FILE
        held_out = options.held_out or (own if own and own.is_file() else None)
        excluded = read_prompts(held_out, field="held-out") if held_out else []
        if shared := sorted(set(prompts) & set(excluded)):
            problems.append(Problem("prompts", f"none of the held-out prompts in {held_out}", shared[:3]))
    if options.out is None and folder is None:
        problems.append(Problem("out", "a file, as two model folders have no default", None))
    elif options.out is None and not os.access(_out(options).parent, os.W_OK):
        problems.append(Problem("out", "a file, as the folder of the pair is read-only", None))
    raise_problems(problems)


def _search(options: argparse.Namespace, out: Path) -> list[Trial]:
    from hybridstitch.tune.plot import plot
    from hybridstitch.tune.points import front, plus, write
    from hybridstitch.tune.search import Tuner

    pipe = open_pipe(options)
    tuner = Tuner(
        pipe,
        _prompts(options),
        options.steps,
        options.guidance_scales,
        _trials(out),
        QUICK if options.quick else THOROUGH,
        (options.width, options.height),
        stitched=not options.quick,
        others=[*defined(pipe.catalogue, options.define).values()],
        bar=not options.json,
    )
    found = [trial for trial in tuner.search() if trial.speed >= options.speed]
    best = plus(found) or pipe.catalogue.recipes.get(PLUS)
    named = {"track": tuner.routed(), **({PLUS: best} if best else {})}
    write(found, tuner.pair, options.steps, named, out)
    say(f"{tuner.work:.1f} plain pictures' work in all")
    try:
        plot(found, out.with_suffix(".png"))
    except MissingExtra as error:
        say(f"no plot: {error}")
    return front(found)


def _prompts(options: argparse.Namespace) -> list[str]:
    """Return the prompts of the search, evenly spread over those of the file."""
    prompts = find_prompts(options, CALIBRATION_FILE)
    usual = min(len(prompts), options.count or (QUICK_PROMPTS if options.quick else PROMPTS))
    return [prompts[number * len(prompts) // usual] for number in range(usual)]


def _out(options: argparse.Namespace) -> Path:
    return options.out or Path(pair_folder(options) or "", TUNED_FILE)


def _trials(out: Path) -> Path:
    return out.with_suffix(".trials.jsonl")


def add_command(commands: Any, pair: Path) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("tune", help=tune.__doc__, description=tune.__doc__)
    command.set_defaults(run=tune, check=check)
    add_common(command, pair, CALIBRATION_FILE)
    command.add_argument(
        "--held-out",
        type=file_to_read(f"a {KINDS} file of prompts"),
        help="held-out prompts, which the search must not use (the pair's)",
    )
    command.add_argument(
        "--guidance-scales",
        type=several(float, 0, 20),
        default=[3.5, 4.5, 7.0],
        help="guidance scales, comma-separated (3.5,4.5,7)",
    )
    command.add_argument("--quick", action="store_true", help="at most the work of 60 plain pictures, instead of 500")
    command.add_argument(
        "--speed",
        type=number(1),
        default=1.0,
        help="smallest speed-up by FLOPs; slower recipes are dropped (%(default)s)",
    )
    command.add_argument(
        "--floor", type=number(0), default=0.0, help="fail unless a recipe reaches this PSNR in dB (%(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print the recipe file instead of a list")
    command.add_argument("--out", type=file_to_write(".json"), help="the recipe file (recipes.json in the pair)")
