"""Serves Stable Diffusion 3 faster: a large and a small model share each picture, on TorchServe or in this process.

Exit codes: 0 it worked, 1 it failed or something is wrong, 2 the command or an input is wrong.
"""

from __future__ import annotations

import argparse
import logging
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from hybridstitch._version import __version__
from hybridstitch.base.paths import EMBEDDED_PAIR, INDEX
from hybridstitch.base.quiet import silence_libraries
from hybridstitch.cli import bench as bench_command
from hybridstitch.cli import compare as compare_command
from hybridstitch.cli import doctor as doctor_command
from hybridstitch.cli import explain as explain_command
from hybridstitch.cli import generate as generate_command
from hybridstitch.cli import pack as pack_command
from hybridstitch.cli import recipes as recipes_command
from hybridstitch.cli import serve as serve_command
from hybridstitch.cli import tune as tune_command
from hybridstitch.cli.interrupts import interruptible
from hybridstitch.cli.parser import CommandParser
from hybridstitch.cli.paths import folder_to_write, packed_pair
from hybridstitch.cli.values import readable, unreadable
from hybridstitch.errors import InvalidInput, Problem, raise_problems

POSITIONAL = ("prompt", "folder")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. All options are checked before the work and its imports begin."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    if not options.verbose:
        silence_libraries()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with interruptible():
            _check(options)
            return options.run(options) or 0
    except InvalidInput as error:
        for problem in error.problems:
            print(f"error: {_named(problem, options)}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if getattr(error, "problems", None) else 1
    except KeyboardInterrupt as interruption:
        print(str(interruption) or "interrupted", file=sys.stderr)
        return 130


def demo(options: argparse.Namespace) -> None:
    """Pack a pair, serve it, generate a picture and show its report."""
    from hybridstitch.cli.demo import run_demo, run_ray_demo

    run = run_ray_demo if options.engine == "ray" else run_demo
    run(print, options.out, options.pair)


def _check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every option that is wrong."""
    raise_problems(_absent_pair(options))
    problems = unreadable(options)
    if check := getattr(options, "check", None):
        try:
            check(argparse.Namespace(**{name: readable(value) for name, value in vars(options).items()}))
        except InvalidInput as error:
            problems += error.problems
    raise_problems(problems)


def _absent_pair(options: argparse.Namespace) -> list[Problem]:
    """The problem of a command that would use the embedded pair where the installed package lacks it."""
    names_another = any(getattr(options, name, None) for name in ("url", "large", "small", "scale"))
    pair = getattr(options, "pair", None) or getattr(options, "own_pair", None)
    if names_another or pair != EMBEDDED_PAIR or (EMBEDDED_PAIR / INDEX).is_file():
        return []
    expected = "a folder: an installed package lacks the embedded pair (33 MB), models/emoji of the repository"
    return [Problem("pair", expected, None)]


def _named(problem: Problem, options: argparse.Namespace) -> Problem:
    """The problem under the name of its option, if it has one."""
    head = re.match(r"[\w-]*", problem.field)[0]  # type: ignore[index]  # it matches every text
    name = head.replace("_", "-")
    is_option = head.replace("-", "_") in vars(options) and name not in POSITIONAL
    rest = problem.field[len(head) :]
    return Problem(f"--{name}{rest}", problem.expected, problem.got) if is_option else problem


def _parser() -> CommandParser:
    parser = CommandParser(prog="hybridstitch", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"hybridstitch {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what happens, also inside of libraries")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (pack_command, serve_command, doctor_command, compare_command):
        module.add_command(commands)
    for module in (generate_command, explain_command, bench_command, tune_command, recipes_command):
        module.add_command(commands, EMBEDDED_PAIR)
    command = commands.add_parser("demo", help=demo.__doc__, description=demo.__doc__)
    command.set_defaults(run=demo)
    command.add_argument("--out", type=folder_to_write, default="demo", help="where the picture goes (%(default)s)")
    command.add_argument("--pair", type=packed_pair, default=EMBEDDED_PAIR, help="the pair to pack (%(default)s)")
    engines = ("torchserve", "ray")
    command.add_argument("--engine", choices=engines, default=engines[0], help="ray: compare both (%(default)s)")
    for command in commands.choices.values():
        command.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="show what happens"
        )
    return parser


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
