"""Starts, watches and stops Ray Serve on this machine. Ray runs in other processes, and ends with this one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from hybridstitch.base.extras import require
from hybridstitch.base.paths import HANDLERS as HANDLER_FILES
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.client.auth import read_key_file
from hybridstitch.serving.client.client import Client
from hybridstitch.serving.config import read_config, response_timeout
from hybridstitch.serving.manifest import FIRST_VERSION, HANDLERS, MANIFEST, Archive, file_name
from hybridstitch.serving.ray.loopback import ENVIRONMENT
from hybridstitch.serving.server.disk import require_space
from hybridstitch.serving.server.java_and_ports import LOOPBACK, is_free
from hybridstitch.serving.server.key_file import claimed, give_up, write_private
from hybridstitch.serving.server.process import end_session, short_temporary_folder
from hybridstitch.serving.server.server import EVERYWHERE
from hybridstitch.serving.settings import PAIR_FOLDER

CONSOLE_LINES = 60
END_SECONDS = 60
"""Seconds to end Ray's processes in order, after the last request."""
READY, FAILED = "ready", "failed: "


class RayServer:
    """Ray Serve on archives. Use it as a context manager.

        with RayServer(["model_store/hybridstitch.mar"], replicas=2) as server:
            server.client.generate("a red apple on blue")

    It is ready when the block begins. All that it writes, also unpacked archives, lies in a temporary folder below
    TMPDIR until it stops. Requests, management and metrics have one port; only that one may be reached from elsewhere.

    Args:
        archives: Files or folders as `pack` writes them, the default version of each model first.
        host: The address that is served.
        port: The port. 0: a free one.
        replicas: Worker processes of each model. None: `minWorkers` of its model-config.yaml, or 1.
        gpus: GPUs of each replica, below 1 for replicas that share one.
        token_auth: Whether requests need a token.
        key_file: Where the tokens are kept instead of the temporary folder, readable by this user only.

    Raises:
        InvalidInput: For a port that is taken, and an archive that is not for Ray.
        MissingExtra: Without Ray.
        RuntimeError: If a model does not start. The message holds the worker's own error.
    """

    def __init__(
        self,
        archives: Sequence[Archive],
        *,
        host: str = LOOPBACK,
        port: int = 0,
        replicas: int | None = None,
        gpus: float = 0,
        token_auth: bool = True,
        key_file: Path | None = None,
    ):
        self._archives = list(archives)
        self._host = host
        self.port = port
        self._options: dict[str, Any] = {"replicas": replicas, "gpus": gpus}
        self.token_auth = token_auth
        self._wanted_key_file = key_file
        self._stack = contextlib.ExitStack()
        self._console: deque[str] = deque(maxlen=CONSOLE_LINES)
        self._is_ready = Event()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer the requests that are at work, end all processes, and remove the temporary folder."""
        self._stack.close()

    def wait(self) -> None:
        """Wait until the server ends, then raise RuntimeError with the end of its log."""
        self._process.wait()
        raise RuntimeError(self._obituary())

    @property
    def pid(self) -> int:
        """The process that runs Ray. It leads the session of all others."""
        return self._process.pid

    @property
    def url(self) -> str:
        """Where everything is served."""
        return f"http://{LOOPBACK if self._host == EVERYWHERE else self._host}:{self.port}"

    @property
    def key_file(self) -> Path:
        """The file with the tokens "inference" and "management". They hold as long as the server runs."""
        return (self._wanted_key_file or self.home / "key_file.json").absolute()

    def token(self, kind: str = "inference") -> str | None:
        """The token for "inference" or "management"; None without token_auth."""
        return read_key_file(self.key_file, kind)[kind] if self.token_auth else None

    def _start(self, stack: contextlib.ExitStack) -> None:
        require("ray", "ray")
        if self.port and not is_free(self.port):
            raise InvalidInput([Problem("port", "a port that is free, or 0", self.port)])
        self.port = self.port or _free_port()
        self.home = Path(stack.enter_context(short_temporary_folder()))
        archives = [unpacked(archive, self.home) for archive in self._archives]
        configs = [read_config(archive.path / "model-config.yaml") for archive in archives]
        limits = [response_timeout(config) for config in configs]
        workers = sum(self._options["replicas"] or config.get("minWorkers") or 1 for config in configs)
        if self.token_auth:
            stack.callback(give_up, claimed(self.key_file))
            stack.callback(self.key_file.unlink, missing_ok=True)
            keys = {kind: {"key": secrets.token_urlsafe(24)} for kind in ("inference", "management")}
            write_private(self.key_file, keys)
        options = {
            **self._options,
            "workers": workers,
            "home": str(self.home / "ray"),
            "archives": [str(archive.path.absolute()) for archive in archives],
            "host": self._host,
            "port": self.port,
            "drain": max(limits),
            "key_file": str(self.key_file) if self.token_auth else None,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hybridstitch.serving.ray.driver", json.dumps(options)],
            cwd=self.home,
            env=_environment(self.home, workers),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the server in order
        )
        reader = Thread(target=self._read_console, daemon=True)
        stack.callback(reader.join)
        stack.callback(self._end, max(limits) + END_SECONDS)
        reader.start()
        self._is_ready.wait()
        if self._process.poll() is not None or not self._has_started():
            self._process.wait()
            reader.join(timeout=5)
            raise RuntimeError(self._obituary())
        self.client = stack.enter_context(
            Client(
                self.url,
                timeout=600,
                management_url=self.url,
                key_file=self.key_file if self.token_auth else None,
                environment=False,
            )
        )

    def _has_started(self) -> bool:
        return any(line.strip() == READY for line in self._console.copy())

    def _end(self, seconds: float) -> None:
        """End all processes: in order within some seconds, at once before the start is complete or when interrupted."""
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            if self._has_started():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(seconds)
        finally:
            end_session(self._process)

    def _read_console(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._console.append(line)
                if line.strip() == READY:
                    self._is_ready.set()
        self._is_ready.set()

    def _obituary(self) -> str:
        lines = self._console.copy()
        failures = [json.loads(line.removeprefix(FAILED)) for line in lines if line.startswith(FAILED)]
        text = failures[-1] if failures else "".join(lines)[-2000:].strip()
        errors = list(re.finditer(r"^(?:\w+\.)*\w*(?:Error|InvalidInput): ", text, re.MULTILINE))
        return f"Ray Serve ended: {text[errors[-1].start() :] if errors else text}"


def unpacked(archive: Archive, home: Path) -> Archive:
    """Return an archive as a folder: itself, or a copy below `home`. Raises OSError if the disk is too small."""
    if archive.path.is_dir():
        return archive
    require_space(home, archive.unpacked_bytes, f"unpacking {archive.path.name}")
    folder = home / file_name(archive.name, archive.version)
    with zipfile.ZipFile(archive.path) as opened:
        opened.extractall(folder)
    return replace(archive, path=folder, unpacked_bytes=0)


def archive_of_pair(pair: Path, folder: Path, name: str = "hybridstitch") -> Archive:
    """Return an archive of a packed pair with the usual settings: a folder with a link to the pair.

    Args:
        pair: The pair.
        folder: An empty folder that becomes the archive.
        name: The model's name.
    """
    manifest = {"model": {"modelName": name, "modelVersion": FIRST_VERSION, "handler": HANDLERS[False]}}
    (folder / MANIFEST).parent.mkdir(parents=True)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    shutil.copy(HANDLER_FILES / "model-config.yaml", folder)
    (folder / PAIR_FOLDER).symlink_to(pair.absolute())
    return Archive(folder, name, FIRST_VERSION, 0, HANDLERS[False])


def _environment(home: Path, workers: int) -> dict[str, str]:
    """The environment of Ray's processes: that of this one, without RAY_... variables, and with a secret for Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Ray gives each worker one thread otherwise.
    kept.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return kept | ENVIRONMENT | secret | {"TMPDIR": str(home)}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((LOOPBACK, 0))
        return int(found.getsockname()[1])
