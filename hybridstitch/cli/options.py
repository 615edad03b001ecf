"""Options that `bench` and `tune` share: the pair, its strategies and recipes, and the prompts."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.base.extra_modules import add_modules
from hybridstitch.base.prompt_files import KINDS, read_prompts
from hybridstitch.base.schema import mismatch
from hybridstitch.cli.pair import add_pair_options, open_pair, pair_folder, pair_problems
from hybridstitch.cli.paths import file_to_read
from hybridstitch.cli.values import whole
from hybridstitch.errors import InvalidInput, Problem, collected, raise_problems
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.recipe.names import TUNED_FILE, known_names

if TYPE_CHECKING:
    from hybridstitch.pipeline import HybridStitchPipeline
    from hybridstitch.recipe.catalogue import Catalogue
    from hybridstitch.recipe.recipe import Recipe


def open_pipe(options: argparse.Namespace) -> HybridStitchPipeline:
    """Load the pair that the options name onto its device, with their strategies and recipes. Raises InvalidInput."""
    catalogue = open_catalogue(options)
    folder = pair_folder(options)
    # Loading takes long, so the recipes are checked before it.
    tuned = catalogue.with_tuned(options.recipe_file) if options.recipe_file else catalogue.of_pair(folder)
    with_defined(tuned, options.define)
    pipe = open_pair(options, catalogue)
    if options.recipe_file:
        pipe.catalogue = pipe.catalogue.with_tuned(options.recipe_file)
    pipe.catalogue = with_defined(pipe.catalogue, options.define)
    return pipe


def common_problems(options: argparse.Namespace) -> list[Problem]:
    """Return the problems of these options that can be found without torch."""
    problems = pair_problems(options)
    folder = pair_folder(options)
    limits = SizeLimits.of_folder(folder) if folder else None
    for name, value in (("width", options.width), ("height", options.height)):
        if limits and value is not None and (rule := mismatch(limits.side, value)):
            problems.append(Problem(name, rule, value))
    for check in (lambda: add_modules(options.extra_module), lambda: _strategies(options), lambda: _described(options)):
        with collected(problems):
            check()
    return problems


def recipe_names(options: argparse.Namespace) -> list[str]:
    """Return the names of all recipes that the options make available."""
    folder = pair_folder(options)
    return known_names(options.recipe_file or (folder and folder / TUNED_FILE), options.define)


def open_catalogue(options: argparse.Namespace) -> Catalogue:
    """Return the built-in recipes and strategies, with the strategies of `--config` and `--extra-module`."""
    from hybridstitch.recipe.catalogue import Catalogue

    add_modules(options.extra_module)
    return Catalogue.load(_strategies(options))


def _strategies(options: argparse.Namespace) -> Any:
    """Return the strategies in the configuration. Raises InvalidInput for a file that `pack` refuses."""
    if not options.config:
        return None
    from hybridstitch.serving.config import read_config
    from hybridstitch.serving.section import SECTION

    return (read_config(options.config).get(SECTION) or {}).get("strategies")


def _described(options: argparse.Namespace) -> dict[str, Any]:
    return described_recipes(options.define) if options.define else {}


def defined(catalogue: Catalogue, path: Path | None) -> dict[str, Recipe]:
    """Return the recipes in a JSON file, by name; none without a file. Raises InvalidInput."""
    described = described_recipes(path) if path else {}
    return {name: replace(catalogue.resolve(value, name), name=name) for name, value in described.items()}


def described_recipes(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of recipes, `{name: description}`. Raises InvalidInput."""
    try:
        described = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput([Problem("define", f"a JSON object of recipes by name ({error})", str(path))]) from None
    if not isinstance(described, dict):
        raise InvalidInput([Problem("define", "a JSON object of recipes by name", described)])
    raise_problems(
        [Problem("define", "names without , ~ @ / =, not reference", name) for name in described if taken(name)]
    )
    return described


def taken(name: str) -> bool:
    """Return whether a name has another meaning in `--recipes`."""
    return name == "reference" or any(sign in name for sign in ",~@/=")


def with_defined(catalogue: Catalogue, path: Path | None) -> Catalogue:
    """Return the catalogue with the recipes in a JSON file added. Raises InvalidInput."""
    return replace(catalogue, recipes={**catalogue.recipes, **defined(catalogue, path)})


def find_prompts(options: argparse.Namespace, usual: str) -> list[str]:
    """Return the prompts of `--prompts`, or of the file `usual` in the folder of the pair. Raises InvalidInput."""
    folder = pair_folder(options)
    if options.prompts is None and folder is None:
        raise InvalidInput([Problem("prompts", "a file, as two model folders have no default", None)])
    return read_prompts(options.prompts or Path(folder or "", usual), options.count)


def add_common(command: argparse.ArgumentParser, pair: Path, prompts: str) -> None:
    """Declare the options of both commands.

    Args:
        command: The parser of the command.
        pair: Default pair.
        prompts: Name of the prompt file in the folder of the pair.
    """
    add_pair_options(command, pair)
    command.add_argument(
        "--config", type=file_to_read("a model-config.yaml"), help="a model-config.yaml with further strategies"
    )
    command.add_argument(
        "--extra-module",
        type=file_to_read("a Python file"),
        action="append",
        default=[],
        help="a Python file that it names",
    )
    command.add_argument(
        "--recipe-file",
        type=file_to_read("a file that `hybridstitch tune` wrote"),
        help="recipes that `tune` wrote, instead of the pair's",
    )
    command.add_argument(
        "--define", type=file_to_read("a JSON file of recipes"), help="a JSON file with more recipes by name"
    )
    command.add_argument("--prompts", type=Path, help=f"a {KINDS} file (the pair's {prompts})")
    command.add_argument("--count", type=whole(1), help="number of prompts, evenly spread over the file (all)")
    command.add_argument("--steps", type=whole(1), default=28, help="steps of the large model's schedule (%(default)s)")
    command.add_argument("--width", type=whole(1), help="width of the pictures in pixels (the pair's)")
    command.add_argument("--height", type=whole(1), help="height of the pictures in pixels (the pair's)")
