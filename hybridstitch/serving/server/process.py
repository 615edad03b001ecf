"""The environment, the temporary folder and the end of a server's processes."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hybridstitch.base.extras import extra
from hybridstitch.serving.server.java_and_ports import find_java_home, temporary_base

with extra("serve"):
    import psutil

STOP_SECONDS = 30

logger = logging.getLogger(__name__)


def server_environment(home: Path) -> dict[str, str]:
    """The environment of a server that writes only below `home`.

    It is the environment of this process without TS_... variables, which would override the configuration.

    Raises:
        FileNotFoundError: Without Java.
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
    folder, why = temporary_base()
    if why:
        logger.warning("%s; %s is used instead", why, folder)
    return tempfile.TemporaryDirectory(prefix="hybridstitch-", dir=folder)


def end_process(launcher: subprocess.Popen[Any]) -> None:
    """End TorchServe and its session: first in order, then by force what is left after `STOP_SECONDS`."""
    others = [process for process in _session(launcher.pid) if process.pid != launcher.pid]
    if others:
        with suppress(psutil.NoSuchProcess):
            min(others, key=psutil.Process.create_time).terminate()  # Java, which then ends its workers
    psutil.wait_procs(others, timeout=STOP_SECONDS)
    end_session(launcher)


def end_session(leader: subprocess.Popen[Any]) -> None:
    """End a process and what is left of its session by force."""
    leader.kill()
    leader.wait()
    for process in _session(leader.pid):
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
