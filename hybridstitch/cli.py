"""The command line: pack, serve, doctor, generate, explain, compare, bench, tune, recipes, demo.

Exit codes: 0 it worked, 1 it failed or something is wrong, 2 the command or an input is wrong.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from hybridstitch.bench import command as bench_command
from hybridstitch.bench import recipes_command, tune_command
from hybridstitch.compare import command as compare_command
from hybridstitch.errors import InvalidInput
from hybridstitch.serving import doctor_command, explain_command, generate_command, pack_command, serve_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return options.run(options) or 0
    except InvalidInput as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if getattr(error, "problems", None) else 1
    except KeyboardInterrupt:
        return 130


def demo(options: argparse.Namespace) -> None:
    """Pack, serve, ask, and show the report."""
    from hybridstitch.serving.demo import run_demo

    run_demo(print, options.out, options.pair)


def _parser() -> argparse.ArgumentParser:
    pair = Path(__file__).resolve().parents[1] / "models" / "emoji"
    parser = argparse.ArgumentParser(prog="hybridstitch", description=__doc__.splitlines()[0])
    parser.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (pack_command, serve_command, doctor_command, compare_command):
        module.add_command(commands)
    for module in (generate_command, explain_command, bench_command, tune_command, recipes_command):
        module.add_command(commands, pair)
    command = commands.add_parser("demo", help=demo.__doc__, description=demo.__doc__)
    command.set_defaults(run=demo)
    command.add_argument("--out", type=Path, default="demo", help="where the picture goes (%(default)s)")
    command.add_argument("--pair", type=Path, default=pair, help="the pair to pack (%(default)s)")
    return parser


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
