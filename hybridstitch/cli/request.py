"""Options of commands that generate a picture: the fields of the request, and the pair or server that answers it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.base.schema import mismatch
from hybridstitch.cli.pair import IN_PROCESS, add_pair_options, open_pair, pair_folder, pair_problems
from hybridstitch.cli.paths import file_to_read
from hybridstitch.cli.values import Unreadable, corners, name_and_scale, name_or_object, number, whole
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.recipe.names import RECIPE_FIELDS, TUNED_FILE, UNNAMED, known_names, name_problem
from hybridstitch.serving.client.address import parse_address
from hybridstitch.wire.fields import request_fields

if TYPE_CHECKING:
    from hybridstitch.pipeline import HybridStitchPipeline
    from hybridstitch.serving.client.client import Client

_UNKNOWN_LIMITS = SizeLimits(1, 1, 1_000_000, (1, 1))
"""Limits for models on a server, which validates the size itself."""
FIELDS = (*request_fields(_UNKNOWN_LIMITS), "lora", "recipe", "speed")
"""The fields of a request. A command sends those that it has an option for."""


def add_request_options(command: argparse.ArgumentParser, seed: str, region: str) -> None:
    """Declare an option for each field that commands share. seed, region: Help texts of those two."""
    command.add_argument("prompt", help="what the picture shows, 1 to 2000 characters")
    command.add_argument("--negative-prompt", help="what it must not show")
    command.add_argument("--seed", type=whole(), help=seed)
    command.add_argument("--recipe", type=name_or_object, help="a name (see `hybridstitch recipes`), or a JSON object")
    command.add_argument(
        "--speed", type=number(), help="instead of a recipe: at least this many times fewer FLOPs than the large model"
    )
    command.add_argument("--num-inference-steps", type=whole(), help="1 to 100 (28)")
    command.add_argument("--guidance-scale", type=number(), help="0 to 20 (4.5)")
    command.add_argument("--width", type=whole(), help="in pixels (the pair's own)")
    command.add_argument("--height", type=whole(), help="in pixels (the pair's own)")
    command.add_argument("--region", type=corners, metavar="X0,Y0,X1,Y1", help=region)
    command.add_argument(
        "--lora",
        type=name_and_scale,
        action="append",
        metavar="NAME=SCALE",
        help="an adapter of the endpoint or pair, and its scale, -10 to 10 (1); may be repeated",
    )
    command.add_argument("--deadline-ms", type=whole(), help="give up at the first step after this many milliseconds")


def add_server_options(command: argparse.ArgumentParser, pair: Path) -> None:
    """Declare the options that select a pair in this process or a server."""
    add_pair_options(command, pair)
    command.add_argument("--url", type=_address, help="a server answers instead, such as http://127.0.0.1:8080")
    command.add_argument("--model", help="with --url: the model's name (the one in the address, else hybridstitch)")
    command.add_argument(
        "--key-file",
        type=file_to_read("the key_file.json of a server"),
        help="with --url: the server's key_file.json (the token in HYBRIDSTITCH_TOKEN)",
    )


def given_fields(options: argparse.Namespace, more: Sequence[str] = ()) -> dict[str, Any]:
    """Return the fields of the request that were given, and those of `more`."""
    given = {name: value for name in (*FIELDS, *more) if (value := getattr(options, name, None)) is not None}
    if "lora" in given:
        given["lora"] = dict(given["lora"])
    return given


def request_problems(options: argparse.Namespace) -> list[Problem]:
    """Return what is wrong with the fields, the pair and the server, as far as that is known without torch."""
    fields = given_fields(options)
    if options.url:
        return _field_problems(fields, _UNKNOWN_LIMITS) + [
            Problem(name, "nothing beside --url: the server has its own models", str(value))
            for name in IN_PROCESS
            if (value := getattr(options, name)) is not None
        ]
    folder = pair_folder(options)
    limits = SizeLimits.of_folder(folder) if folder else None
    problems = pair_problems(options) + _field_problems(fields, limits or _UNKNOWN_LIMITS)
    problems += [
        Problem(name, "--url beside it", str(value))
        for name in ("model", "key_file")
        if (value := getattr(options, name)) is not None
    ]
    return problems + _recipe_problems(fields, folder and folder / TUNED_FILE)


def open_for(options: argparse.Namespace, fields: Mapping[str, Any]) -> HybridStitchPipeline:
    """Load the pair. Raises InvalidInput, before it loads, for a recipe or speed that it does not have."""
    from hybridstitch.recipe.catalogue import Catalogue

    catalogue = Catalogue.load().of_pair(pair_folder(options))
    if "speed" in fields:
        raise_problems(catalogue.speed_problems(fields["speed"]))
    elif "recipe" in fields:
        catalogue.resolve(fields["recipe"])
    pipe = open_pair(options)
    is_silent = options.json or not sys.stderr.isatty()
    pipe.set_progress_bar_config(disable=is_silent, desc="steps", leave=False)
    return pipe


def open_client(options: argparse.Namespace) -> Client:
    """Return a client of the server that the options name."""
    from hybridstitch.serving.client.client import Client

    return Client(options.url, timeout=600, key_file=options.key_file)


def _field_problems(fields: Mapping[str, Any], limits: SizeLimits) -> list[Problem]:
    schemas = request_fields(limits)
    problems = [
        Problem(name, rule, value)
        for name, value in fields.items()
        if name in schemas and (rule := mismatch(schemas[name], value))
    ]
    if fields.get("speed", 1) < 1:
        problems.append(Problem("speed", "a number of at least 1", fields["speed"]))
    if "speed" in fields and "recipe" in fields:
        problems.append(Problem("speed", "no --recipe beside it", fields["speed"]))
    return problems


def _recipe_problems(fields: Mapping[str, Any], tuned: Path | None) -> list[Problem]:
    recipe = fields.get("recipe")
    described = recipe if isinstance(recipe, dict) else {"name": recipe}
    problems = [
        Problem(f"recipe.{key}", f"one of: {', '.join(RECIPE_FIELDS)}", value)
        for key, value in described.items()
        if key not in RECIPE_FIELDS
    ]
    name = described.get("name")
    if name is not None and name not in UNNAMED:
        where = "recipe.name" if isinstance(recipe, dict) else "recipe"
        wrong = name_problem(where, name, known_names(tuned))
        problems += [wrong] if wrong else []
    return problems


def _address(text: str) -> str | Unreadable:
    try:
        parse_address("url", text)
    except InvalidInput as error:
        (problem,) = error.problems
        return Unreadable(problem.expected, problem.got)
    return text
