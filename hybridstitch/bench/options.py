"""What `bench` and `tune` have in common: the pair, its strategies and recipes, and the prompts."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.prompt_files import KINDS, read_prompts

if TYPE_CHECKING:
    from hybridstitch.catalogue import Catalogue
    from hybridstitch.pipeline import HybridStitchPipeline
    from hybridstitch.recipe import Recipe

HELD_OUT_FILE = "heldout_prompts.txt"
CALIBRATION_FILE = "calibration_prompts.txt"
DTYPES = ("float32", "bfloat16", "float16")


def open_pipe(options: argparse.Namespace) -> HybridStitchPipeline:
    """The pair that the options name, on their device, with the strategies and recipes that they name."""
    import torch

    from hybridstitch.pipeline import HybridStitchPipeline

    catalogue = open_catalogue(options)
    dtype = getattr(torch, options.dtype)
    two = options.large or options.small
    source = {"large": options.large, "small": options.small} if two else {"folder": options.pair}
    pipe = HybridStitchPipeline.from_pretrained(**source, torch_dtype=dtype, catalogue=catalogue)
    if options.recipe_file:
        pipe.catalogue = pipe.catalogue.with_tuned(options.recipe_file)
    pipe.catalogue = with_defined(pipe.catalogue, options.define)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def open_catalogue(options: argparse.Namespace) -> Catalogue:
    """Built-in strategies, and those of the modules and the configuration that `pack` would take along."""
    from hybridstitch.catalogue import Catalogue

    sys.path[:0] = [str(module.resolve().parent) for module in options.extra_module]
    try:
        config = yaml.safe_load(options.config.read_text()) if options.config else {}
        named = (config.get("handler") or {}).get("strategies")
    except (OSError, yaml.YAMLError, AttributeError) as error:
        raise InvalidInput([Problem("config", "a model-config.yaml", str(error))]) from error
    return Catalogue.load(named)


def defined(catalogue: Catalogue, path: Path | None) -> dict[str, Recipe]:
    """The recipes of a JSON file, `{name: description}`. Raises InvalidInput."""
    if path is None:
        return {}
    try:
        described = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput([Problem("define", "a JSON object of recipes by name", str(error))]) from error
    raise_if([Problem("define", "names without , ~ @ / =, not reference", name) for name in described if taken(name)])
    return {name: replace(catalogue.resolve(value, name), name=name) for name, value in described.items()}


def taken(name: str) -> bool:
    """Whether a recipe's name means something else to `--recipes`."""
    return name == "reference" or any(sign in name for sign in ",~@/=")


def with_defined(catalogue: Catalogue, path: Path | None) -> Catalogue:
    """The catalogue with these recipes."""
    return replace(catalogue, recipes={**catalogue.recipes, **defined(catalogue, path)})


def find_prompts(options: argparse.Namespace, usual: str) -> list[str]:
    """The prompts that the options name, or the pair's own. Raises InvalidInput."""
    if options.prompts is None and (options.large or options.small):
        raise InvalidInput([Problem("prompts", "a file: two folders have no prompts of their own", None)])
    return read_prompts(options.prompts or options.pair / usual, options.count)


def whole(low: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least this."""

    def read(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"expected {low} or more, got {value}")
        return value

    return read


def several(kind: type[Any]) -> Callable[[str], list[Any]]:
    """The type of an option that is a comma-separated list of finite numbers."""

    def read(text: str) -> list[Any]:
        try:
            values = [kind(each) for each in text.split(",")]
        except ValueError:
            values = [math.nan]
        if not all(map(math.isfinite, values)):
            raise argparse.ArgumentTypeError(f"expected comma-separated numbers, got {text!r}")
        return values

    return read


def add_common(command: argparse.ArgumentParser, pair: Path, prompts: str) -> None:
    """Declare what both commands take."""
    command.add_argument("--pair", type=Path, default=pair, help="a packed pair folder (%(default)s)")
    command.add_argument("--large", help="instead of a pair: the large model, a folder or hub id")
    command.add_argument("--small", help="... and the small one")
    command.add_argument("--config", type=Path, help="a model-config.yaml whose strategies take part")
    command.add_argument("--extra-module", type=Path, action="append", default=[], help="a Python file it names")
    command.add_argument("--recipe-file", type=Path, help="what `tune` wrote, instead of the pair's own")
    command.add_argument("--define", type=Path, help="a JSON file with more recipes by name")
    command.add_argument("--dtype", choices=DTYPES, default="float32", help="(%(default)s)")
    command.add_argument("--device", help="cuda where there is one, otherwise cpu")
    command.add_argument("--prompts", type=Path, help=f"a {KINDS} file (the pair's {prompts})")
    command.add_argument("--count", type=whole(1), help="how many of them, evenly spread (all)")
    command.add_argument("--steps", type=whole(1), default=28, help="of the large model's schedule (%(default)s)")
    command.add_argument("--width", type=whole(1), help="of the pictures, in pixels (the pair's own)")
    command.add_argument("--height", type=whole(1), help="... and their height")
    command.add_argument("--processes", type=whole(1), default=1, help="that draw, each with its own pair (1)")
