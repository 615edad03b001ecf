"""How a worker finds the longest answer that its TorchServe takes, from the server's own process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hybridstitch.serving.worker.response_limit import STOCK, response_limit

Started = Callable[..., int]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Starts a process with arguments in a folder and returns its id."""
    with ExitStack() as stack:

        def start(*arguments: str) -> int:
            command = [sys.executable, "-c", "print(flush=True); input()", *arguments]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = stack.enter_context(subprocess.Popen(command, cwd=tmp_path, **pipes))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()  # it has its command line and folder now
            return process.pid

        yield start


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ((), {}, 111),
        (("-f", "named.properties"), {}, 222),
        (("-f", "named.properties"), {"TS_CONFIG_FILE": "other.properties"}, 333),
        (("-f", "named.properties"), {"TS_MAX_RESPONSE_SIZE": "999"}, 222),
        (("-f", "variables.properties"), {"TS_MAX_RESPONSE_SIZE": "999"}, 999),
        (("-f", "variables.properties"), {}, STOCK),
        (("-f", "both.properties"), {"TS_MAX_RESPONSE_SIZE": "999"}, 999),
        (("-f", "both.properties"), {}, 444),
        (("-f", "odd.properties"), {}, STOCK),
        (("-f", "absent.properties"), {}, STOCK),
        (("-f",), {}, 111),
    ],
)
def test_it_is_read_where_the_server_reads_it(
    tmp_path: Path, started: Started, arguments: tuple[str, ...], environment: dict[str, str], expected: int
) -> None:
    for name, text in {
        "config": "# max_response_size=5\n max_response_size = 111 \n",
        "named": "max_response_size=222",
        "other": "max_response_size=333",
        "variables": "enable_envvars_config=true",
        "both": "enable_envvars_config=True\nmax_response_size=444",
        "odd": "max_response_size=many",
    }.items():
        (tmp_path / f"{name}.properties").write_text(text)
    assert response_limit(started("org.pytorch.serve.ModelServer", *arguments), environment) == expected


def test_another_parent_has_no_limit_to_read(tmp_path: Path, started: Started) -> None:
    (tmp_path / "config.properties").write_text("max_response_size=111")
    assert response_limit(started("-f", "config.properties"), {}) == STOCK
    assert response_limit(os.getpid(), {}) == STOCK


def test_a_server_that_has_ended_is_no_error(started: Started) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert response_limit(ended.pid, {}) == STOCK
