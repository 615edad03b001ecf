"""`hybridstitch pack`: writes both models, the handler and the package into one archive."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from hybridstitch.cli.pair import add_part_options
from hybridstitch.cli.paths import file_to_read, folder_to_write
from hybridstitch.errors import collected, raise_problems
from hybridstitch.model.lora_files import MODELS, Fused, read_fused
from hybridstitch.model.sources import source_problems


def pack(options: argparse.Namespace) -> None:
    """Write one archive."""
    from hybridstitch.serving.server import pack as archive

    archive.logger.setLevel(logging.INFO)  # reports on stderr what packing takes, also without -v
    path = archive.pack(
        options.pair,
        large=options.large,
        small=options.small,
        plain=options.plain,
        out=options.out,
        archive_format=options.format,
        name=options.name,
        version=options.version,
        recipes=options.recipes,
        config=options.config,
        extra_modules=options.extra_module,
        variant=options.variant,
        loras=_loras(options),
        without=options.without or (),
        force=options.force,
    )
    print(path)


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every folder of models that is wrong."""
    problems = source_problems(options.pair, options.large, options.small, options.plain)
    with collected(problems):
        _loras(options)
    raise_problems(problems)


def _loras(options: argparse.Namespace) -> list[Fused]:
    return [read_fused(model, text) for model in MODELS for text in getattr(options, f"lora_{model}")]


def add_command(commands: Any) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("pack", help=pack.__doc__, description=pack.__doc__)
    command.set_defaults(run=pack, check=check)
    command.add_argument("--pair", type=Path, help="a packed pair folder")
    command.add_argument("--large", help="a diffusers SD3 folder or hub id: the large model and the shared parts")
    command.add_argument("--small", help="... and the small model, of which transformer/ is enough")
    command.add_argument("--plain", action="store_true", help="the large model alone, in diffusers' own pipeline")
    command.add_argument(
        "--out", type=folder_to_write, default="model_store", help="a folder, the model store (%(default)s)"
    )
    command.add_argument(
        "--format",
        default="zip-store",
        help="zip-store, default (compressed), no-archive (a folder) or link (a folder with links to the weights) "
        "(%(default)s)",
    )
    command.add_argument("--name", help="the model's name (hybridstitch, or plain with --plain)")
    command.add_argument(
        "--version", default="1.0", help="the model's version; others than %(default)s get NAME-VERSION.mar"
    )
    command.add_argument(
        "--config", type=file_to_read("a model-config.yaml"), help="a model-config.yaml instead of the shipped one"
    )
    command.add_argument(
        "--recipes",
        type=file_to_read("a file that `hybridstitch tune` wrote"),
        help="a file of `hybridstitch tune` (the one in the pair)",
    )
    command.add_argument(
        "--extra-module", type=file_to_read("a Python file"), action="append", default=[], help="a Python file it names"
    )
    add_part_options(command)
    for model in MODELS:
        command.add_argument(
            f"--lora-{model}",
            action="append",
            default=[],
            metavar="FILE[:SCALE]",
            help=f"a LoRA to add to the weights of the {model} model, with a scale (1); may be repeated",
        )
    command.add_argument("--force", action="store_true", help="replace an archive of another kind or model, too")
