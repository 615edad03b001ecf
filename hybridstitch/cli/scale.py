"""`hybridstitch bench --scale`: what models of full size cost on this machine, without their weights."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.base.extra_modules import add_modules
from hybridstitch.base.progress import say
from hybridstitch.bench.specs import CACHE_DIT, read_spec, split_specs
from hybridstitch.cli.options import open_catalogue, recipe_names, with_defined
from hybridstitch.cli.pair import pair_folder
from hybridstitch.cli.values import Unreadable
from hybridstitch.errors import InvalidInput, Problem, collected, raise_problems

if TYPE_CHECKING:
    from hybridstitch.recipe.recipe import Recipe

NAMES = {"sd35": "sd35", "sd3.5": "sd35", "sd3": "sd3"}
MODES = {",".join(each): each for each in (("eager",), ("eager", "compiled"))}
SIZES, BATCHES = (1024, 512), (1, 4)
CELL, LARGEST = 16, 3072
"""Sides of a picture are multiples of the first, and at most the second."""
SECONDS = 480
"""Time for everything: the command ends within ten minutes."""
REPEATS = {"cpu": 5, "cuda": 15}
WHOLE = ("large", "small", "hybridstitch", "hybridstitch-plus", "speed=1.83", "speed=2.5")
"""Contenders of the whole pictures; those that the catalogue lacks are left out."""
ON_CPU = ("large", "hybridstitch", "speed=2.5")
WITHOUT_EFFECT = ("large", "small", "prompts", "count", "against", "equal_speed", "equal_flops")


def scale(text: str) -> str | Unreadable:
    """The name of a scale."""
    return NAMES.get(text.lower(), Unreadable("one of: sd35, sd3", text))


def modes(text: str) -> tuple[str, ...] | Unreadable:
    """The modes of the forwards."""
    return MODES.get(text.lower(), Unreadable(f"one of: {'; '.join(MODES)}", text))


def check_scale(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every wrong option of a bench with `--scale`."""
    problems = [
        Problem(
            name.replace("_", "-"), "nothing beside --scale, which loads no pair and no prompts", getattr(options, name)
        )
        for name in WITHOUT_EFFECT
        if getattr(options, name) not in (None, [])
    ]
    if options.processes > 1:
        problems.append(Problem("processes", "1 with --scale: forwards are timed one by one", options.processes))
    with collected(problems):
        add_modules(options.extra_module)
    known = recipe_names(options)
    for spec in split_specs(options.recipes) if options.recipes else []:
        with collected(problems):
            read = read_spec(spec, known)
            if spec.startswith(CACHE_DIT) or read.speed is not None or read.solver not in ("euler", "even"):
                expected = "with --scale RECIPE[@STEPS][/even] or speed=NUMBER"
                raise InvalidInput([Problem("recipes", expected, spec)])
    for name in ("width", "height"):
        side = getattr(options, name)
        if side is not None and (side % CELL or side > LARGEST):
            problems.append(Problem(name, f"a multiple of {CELL} up to {LARGEST}", side))
    if None not in (options.width, options.height) and options.width != options.height:
        problems.append(Problem("height", f"{options.width}, the width: pictures are square", options.height))
    raise_problems(problems)


def run_scale_command(options: argparse.Namespace) -> None:
    """Measure, print the tables or JSON, and write both to `--out`."""
    import torch

    from hybridstitch.bench.contenders import Contender
    from hybridstitch.bench.scale import ScaleOptions, run_scale
    from hybridstitch.bench.scale_table import as_json, markdown

    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    usual = "float32" if device.type == "cpu" else "bfloat16"
    side = options.width or options.height
    catalogue = open_catalogue(options)
    tuned = catalogue.with_tuned(options.recipe_file) if options.recipe_file else _of_pair(catalogue, options)
    catalogue = with_defined(tuned, options.define)

    def parse(spec: str) -> Contender:
        return Contender.parse(spec, catalogue, options.steps, options.guidance_scale, _no_match)

    specs = options.recipes.split(",") if options.recipes else [*catalogue.recipes, *_dial(catalogue)]
    on_this = ON_CPU if device.type == "cpu" else WHOLE
    generated = specs if options.recipes else [each for each in on_this if each in specs]
    given = ScaleOptions(
        options.scale,
        SIZES if side is None else (side,),
        BATCHES,
        device,
        getattr(torch, options.dtype if options.dtype not in (None, "auto") else usual),
        options.steps,
        REPEATS.get(device.type, REPEATS["cpu"]),
        options.seconds,
        options.modes,
    )
    result = run_scale(given, [parse(each) for each in specs], [parse(each) for each in generated], say)
    described, page = as_json(result), markdown(result)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scale.json").write_text(json.dumps(described, indent=1))
    (folder / "scale.md").write_text(page)
    print(json.dumps(described, indent=1) if options.json else page)


def _of_pair(catalogue: Any, options: argparse.Namespace) -> Any:
    """The catalogue with the recipes that the pair was tuned to, if there is a pair."""
    folder = pair_folder(options)
    return catalogue.of_pair(folder) if folder and folder.is_dir() else catalogue


def _dial(catalogue: Any) -> list[str]:
    return [each for each in WHOLE if each.startswith("speed=")] if catalogue.tuned else []


def _no_match(recipe: Recipe, speed: float) -> Recipe:
    raise InvalidInput([Problem("recipes", "a recipe without ~ with --scale", f"{recipe.name}~{speed:g}")])
