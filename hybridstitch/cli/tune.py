"""`hybridstitch tune`: searches the recipes of a pair with the highest fidelity at each cost."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.base.paths import CALIBRATION_FILE, HELD_OUT_FILE
from hybridstitch.base.prompt_files import KINDS, read_prompts
from hybridstitch.cli.interrupts import interruptible
from hybridstitch.cli.options import (
    add_common,
    common_problems,
    defined,
    find_prompts,
    open_pipe,
)
from hybridstitch.cli.pair import for_processes, pair_folder
from hybridstitch.cli.paths import file_to_read, file_to_write, make_folders
from hybridstitch.cli.values import number, several, whole
from hybridstitch.errors import Problem, collected, raise_problems
from hybridstitch.recipe.names import TUNED_FILE

if TYPE_CHECKING:
    from hybridstitch.recipe.catalogue import Catalogue
    from hybridstitch.tune.candidates import Baseline
    from hybridstitch.tune.search import Trial


def tune(options: argparse.Namespace) -> None:
    """Search the recipes of highest fidelity at each cost and write them to a file, for the speed dial."""
    out = _out(options)
    make_folders(out)
    kept = f"interrupted: the measurements so far are kept in {_trials(out)}; the same command continues from there"
    with interruptible(kept):
        found = _search(options, out)
    print(out.read_text() if options.json else out)
    for trial in [] if options.json else found:
        kind = "stitched" if trial.stitched else ""
        reached = "  ".join(f"{trial.fidelity(scale):5.1f} dB at {scale:g}" for scale in options.guidance_scales)
        print(f"{trial.speed:6.2f}x  {reached}  {trial.origin}  {kind}")
    if not all(any(trial.fidelity(scale) >= options.floor for trial in found) for scale in options.guidance_scales):
        raise RuntimeError(f"nothing found at {options.speed:g}x and {options.floor:g} dB; see {out}")


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every wrong option."""
    problems = common_problems(options)
    folder = pair_folder(options)
    with collected(problems):
        prompts = find_prompts(options, CALIBRATION_FILE)
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
    from hybridstitch.bench.calibration import Calibration, CalibrationPool
    from hybridstitch.tune.candidates import Baseline
    from hybridstitch.tune.search import Tuner, write

    prompts, size = find_prompts(options, CALIBRATION_FILE), (options.width, options.height)
    with ExitStack() as stack:
        pipe, pool = open_pipe(options), None
        if options.processes > 1:
            opened = partial(open_pipe, for_processes(options, pipe))
            pool = stack.enter_context(CalibrationPool(opened, prompts, options.steps, options.processes, size))
        calibration = Calibration(pipe, prompts, options.steps, size)
        others = [
            Baseline(recipe, name) for name, recipe in defined(calibration.pipe.catalogue, options.define).items()
        ]
        tuner = Tuner(calibration, options.guidance_scales, _trials(out), options.seed, pool, bar=not options.json)
        earlier = _earlier(calibration.pipe.catalogue)
        found = tuner.search(options.candidates, options.rounds, others, earlier, options.speed)
    write(found, tuner, out)
    return found


def _out(options: argparse.Namespace) -> Path:
    return options.out or Path(pair_folder(options) or "", TUNED_FILE)


def _trials(out: Path) -> Path:
    return out.with_suffix(".trials.jsonl")


def _earlier(catalogue: Catalogue) -> list[Baseline]:
    """Return the result of the pair's earlier search, under the names of that search, which its journal knows."""
    from hybridstitch.plans import ExplicitShares
    from hybridstitch.tune.candidates import Baseline

    return [
        Baseline(
            replace(each.recipe, name="tuned" if isinstance(each.recipe.plan, ExplicitShares) else each.origin),
            each.origin,
        )
        for each in catalogue.tuned
    ]


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
    command.add_argument("--candidates", type=whole(0), default=208, help="recipes of the first round (%(default)s)")
    command.add_argument("--rounds", type=whole(1), default=3, help="rounds, each with twice the prompts (%(default)s)")
    command.add_argument("--seed", type=whole(), default=0, help="seed of the search (%(default)s)")
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
