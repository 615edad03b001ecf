"""`hybridstitch doctor`: examines a machine or a server and prints a line for each finding."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridstitch.cli.paths import folder_to_read
from hybridstitch.errors import Problem, raise_problems

if TYPE_CHECKING:
    from hybridstitch.serving.doctor.machine import Finding

MARKS = {True: "ok", False: "FAILED", None: "-"}


def doctor(options: argparse.Namespace) -> int:
    """Check whether a server could start here or, with --url, whether every worker of a running one answers."""
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
    findings = examine(
        options.url,
        management_url=options.management_url,
        key_file=options.key_file,
        **given,
        timeout=options.timeout,
        heal=options.heal,
    )
    print(json.dumps([asdict(finding) for finding in findings], indent=2) if options.json else _table(findings))
    return int(any(finding.ok is False for finding in findings))


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
    command.set_defaults(run=doctor)
    command.add_argument("--url", help="examine this server, for instance http://127.0.0.1:8080")
    command.add_argument("--management-url", help="with --url: its management address (the same host, the next port)")
    command.add_argument("--key-file", type=Path, help="with --url: its key_file.json; not for serve --no-auth")
    command.add_argument("--timeout", type=float, default=30, help="seconds for each prediction (%(default)s)")
    command.add_argument("--heal", action="store_true", help="restart workers that hang, and prove that they answer")
    command.add_argument(
        "--store",
        type=folder_to_read("a folder of archives"),
        help="without --url: the archives to serve (model_store)",
    )
    command.add_argument("--port", type=int, help="without --url: the first of the server's ports (8080)")
    command.add_argument("--json", action="store_true", help="print JSON instead of the table")
