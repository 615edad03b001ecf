"""`hybridstitch doctor`: examines a machine, a pair or a server and prints a line for each finding."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.cli.pair import DTYPES, add_part_options, device_name, pair_problems
from hybridstitch.cli.paths import file_to_read, folder_to_read, packed_pair
from hybridstitch.cli.values import one_of
from hybridstitch.errors import Problem, raise_problems

if TYPE_CHECKING:
    from hybridstitch.serving.doctor.machine import Finding

OF_A_PAIR = ("pair", "large", "small", "config", "device", "dtype", "variant", "without")
MARKS = {True: "ok", False: "FAILED", None: "-"}


def doctor(options: argparse.Namespace) -> int:
    """Check whether a server could start here, whether a pair fits, or whether the workers of a server answer."""
    findings = _of_pair(options) if _names_a_pair(options) else _of_machine_or_server(options)
    print(json.dumps([asdict(finding) for finding in findings], indent=2) if options.json else _table(findings))
    return int(any(finding.ok is False for finding in findings))


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every option that does not go with the others."""
    if not _names_a_pair(options):
        given = [(name, getattr(options, name)) for name in OF_A_PAIR]
        expected = "--pair, or --large and --small, beside it"
        raise_problems([Problem(name, expected, str(value)) for name, value in given if value is not None])
        return
    others = {"url": options.url, "management-url": options.management_url, "key-file": options.key_file}
    others |= {"heal": options.heal or None, "port": options.port}
    raise_problems(
        [
            Problem(name, "nothing beside a pair, which is examined on this machine", str(value))
            for name, value in others.items()
            if value is not None
        ]
        + pair_problems(options)
    )


def _names_a_pair(options: argparse.Namespace) -> bool:
    return any(each is not None for each in (options.pair, options.large, options.small))


def _of_pair(options: argparse.Namespace) -> list[Finding]:
    from hybridstitch.serving.config import read_config
    from hybridstitch.serving.doctor.pair import examine_pair

    return examine_pair(
        options.pair,
        options.large,
        options.small,
        device=options.device,
        dtype=options.dtype,
        config=read_config(options.config) if options.config else None,
        store=options.store or Path("model_store"),
        files={"variant": options.variant, "without": options.without or ()},
    )


def _of_machine_or_server(options: argparse.Namespace) -> list[Finding]:
    from hybridstitch.serving.doctor.examination import examine

    only_without = {"store": options.store, "port": options.port}
    given = {name: value for name, value in only_without.items() if value is not None}
    if options.url is not None:
        raise_problems(
            [
                Problem(name, "nothing beside --url: it is not this machine's", str(value))
                for name, value in given.items()
            ]
        )
    return examine(
        options.url,
        management_url=options.management_url,
        key_file=options.key_file,
        **given,
        timeout=options.timeout,
        heal=options.heal,
    )


def _table(findings: Sequence[Finding]) -> str:
    wide = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.ok]:<7} {finding.name:<{wide}}  {finding.detail}")
        if finding.ok is False and finding.advice:
            lines.append(f"{'':<7} {'':<{wide}}  -> {finding.advice}")
    return "\n".join(lines)


def add_command(commands: Any) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("doctor", help=doctor.__doc__, description=doctor.__doc__)
    command.set_defaults(run=doctor, check=check)
    a_model = folder_to_read("a folder of an SD3 model")
    command.add_argument("--pair", type=packed_pair, help="examine what this packed pair needs; nothing is loaded")
    command.add_argument("--large", type=a_model, help="instead of --pair: the folder of the large model")
    command.add_argument("--small", type=a_model, help="... and that of the small one")
    command.add_argument(
        "--device", type=device_name, help="with a pair: such as cpu or cuda:0 (a GPU if there is one)"
    )
    command.add_argument("--dtype", type=one_of(*DTYPES), help="with a pair: of the weights (that of --config)")
    add_part_options(command)
    command.add_argument(
        "--config", type=file_to_read("a model-config.yaml"), help="with a pair: the settings of its worker"
    )
    command.add_argument("--url", help="examine this server, for instance http://127.0.0.1:8080")
    command.add_argument("--management-url", help="with --url: its management address (the same host, the next port)")
    command.add_argument("--key-file", type=Path, help="with --url: its key_file.json; not for serve --no-auth")
    command.add_argument(
        "--timeout", type=float, help="seconds for each prediction (30, or three times the worker's first picture)"
    )
    command.add_argument("--heal", action="store_true", help="restart workers that hang, and prove that they answer")
    command.add_argument(
        "--store",
        type=folder_to_read("a folder of archives"),
        help="without --url: the archives to serve (model_store)",
    )
    command.add_argument("--port", type=int, help="without --url: the first of the server's ports (8080)")
    command.add_argument("--json", action="store_true", help="print JSON instead of the table")
