"""Starts, watches and stops a TorchServe."""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

from hybridstitch.base.extras import require
from hybridstitch.base.paths import HANDLERS, SERVER_PROPERTIES
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.serving.client.auth import read_key_file
from hybridstitch.serving.client.client import Client, ServiceError
from hybridstitch.serving.manifest import Archive, name_problems, read_archive
from hybridstitch.serving.server.disk import leaving_nothing, require_space
from hybridstitch.serving.server.java_and_ports import LOOPBACK, choose_ports
from hybridstitch.serving.server.process import end_process, server_environment, short_temporary_folder

EVERYWHERE = "0.0.0.0"
START_SECONDS = 120
WORKER_ENDED = "Backend worker process died"
"""What TorchServe logs for a worker whose start fails. It then starts the next one, again and again."""
CONSOLE_LINES = 40  # kept to explain a server that ended; the whole log is in its temporary folder

logger = logging.getLogger(__name__)


class Server:
    """TorchServe on the archives of `store`. Use it as a context manager.

        with Server("model_store") as server:
            server.register("hybridstitch")
            server.client.generate("a red apple on blue")

    All that it writes, also unpacked archives, lies in a temporary folder below TMPDIR until it stops.

    Args:
        store: Folder of the archives.
        host: Address that predictions are served at, over HTTP and gRPC. Management stays on this machine.
        metrics_host: Address for Prometheus, which needs no token.
        port: Port of predictions. Management and metrics take the next two, gRPC `port` - 1010 and the one after.
            0: free ones.
        token_auth: Whether requests need a token.
        loaded: An archive of the store that TorchServe itself loads while it starts; see `wait_until_loaded`. It is the
            model of `/invocations`, a route without a model's name.

    Raises:
        InvalidInput: For a store that is no folder, and for a port that is taken or out of range.
        FileNotFoundError: Without Java.
        RuntimeError: If the server does not start. The message holds the end of its log.
    """

    def __init__(
        self,
        store: str | Path = "model_store",
        *,
        host: str = LOOPBACK,
        metrics_host: str = LOOPBACK,
        port: int = 0,
        token_auth: bool = True,
        loaded: Archive | None = None,
    ):
        self.store = Path(store).resolve()
        if not self.store.is_dir():
            raise InvalidInput([Problem("store", "an existing folder", str(store))])
        self.token_auth = token_auth
        self._hosts = {"inference": host, "grpc_inference": host, "metrics": metrics_host}
        self._port = port
        self._loaded = loaded
        self._stack = contextlib.ExitStack()
        self._registering = Lock()
        self._connecting = Lock()
        self._client: Client | None = None
        self._console: deque[str] = deque(maxlen=CONSOLE_LINES)

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
        """End the server with all of its processes, and remove its temporary folder. A second call does nothing."""
        self._stack.close()
        if self._client:
            self._client.close()
            self._client = None

    def wait(self) -> None:
        """Wait until the server ends, then raise RuntimeError with the end of its log."""
        self._process.wait()
        raise RuntimeError(self._obituary())

    @property
    def url(self) -> str:
        """Where predictions are served."""
        host = self._hosts["inference"]
        host = LOOPBACK if host == EVERYWHERE else host
        return f"http://{host}:{self.ports['inference']}"

    @property
    def management_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['management']}"

    @property
    def key_file(self) -> Path:
        """TorchServe's file with the tokens, readable by this user only."""
        return self.home / "key_file.json"

    def token(self, kind: str = "inference") -> str | None:
        """The current token for "inference" or "management"; None without token_auth."""
        return read_key_file(self.key_file, kind)[kind] if self.token_auth else None

    @property
    def client(self) -> Client:
        """The one client of this server, with its tokens. It uses none of the environment."""
        with self._connecting:
            if self._client is None:
                self._client = Client(
                    self.url,
                    timeout=600,
                    management_url=self.management_url,
                    key_file=self.key_file if self.token_auth else None,
                    environment=False,
                )
            return self._client

    def register(self, model: str, archive: str | None = None) -> None:
        """Load an archive of the store and wait until its worker is ready.

        The first version of a model becomes its default. After an error nothing stays registered, and no copy of the
        archive is left.

        Args:
            model: The model's name.
            archive: File name of the archive, whose manifest holds the version. None: `model`.mar, or the unpacked
                folder `model`.

        Raises:
            InvalidInput: For a bad name, an archive that is absent or not whole, and a version that is registered.
            OSError: If the disk is too small for the unpacked copy.
            RuntimeError: If the worker does not start. The message holds the worker's own error.
        """
        raise_problems(name_problems("model", model))
        found = self._find(model, archive)
        with self._registering, leaving_nothing(self.home, found):
            if found.version in self.versions(model):
                expected = f"one that is not registered for {model} yet"
                raise InvalidInput([Problem("version", expected, found.version)])
            require_space(self.home, found.unpacked_bytes, f"unpacking {found.path.name}")
            log = self.home / "logs" / "model_log.log"
            seen = log.stat().st_size if log.exists() else 0
            try:
                self.client.register(found.path.name, model)
            except ServiceError as error:
                raise RuntimeError(f"{model}: {error}{_last_words(log, seen)}") from error
        logger.info("registered %s %s", model, found.version)

    def wait_until_loaded(self) -> None:
        """Wait until a worker of the archive `loaded` is ready.

        Raises:
            RuntimeError: If the worker ends while it starts. The message holds the worker's own error.
        """
        assert self._loaded is not None, "a server with an archive that it loads itself"
        log = self.home / "logs" / "model_log.log"
        while not self._has_ready_worker(self._loaded.name):
            if log.exists() and WORKER_ENDED in log.read_text(errors="replace"):
                raise RuntimeError(f"{self._loaded}: its worker did not start{_last_words(log, 0)}")
            if self._process.poll() is not None:
                raise RuntimeError(self._obituary())
            time.sleep(0.5)
        logger.info("loaded %s", self._loaded)

    def _has_ready_worker(self, model: str) -> bool:
        with contextlib.suppress(ServiceError):  # not registered yet
            return any(worker["status"] == "READY" for worker in self.workers(model))
        return False

    def step(self) -> str:
        """What a worker that starts does now, as it logged last; empty if it has not logged anything yet."""
        log = self.home / "logs" / "model_log.log"
        lines = re.findall(r" start: (.*)", log.read_text(errors="replace")) if log.exists() else []
        return lines[-1] if lines else ""

    def versions(self, model: str) -> list[str]:
        """The registered versions of a model. Empty for a model that is not registered."""
        try:
            return [each["modelVersion"] for each in self.client.describe(f"{model}/all", customized=False)]
        except ServiceError as error:
            if error.status == 404:
                return []
            raise

    def _find(self, model: str, archive: str | None) -> Archive:
        """The archive with this file name in the store, by default the one that is named after the model."""
        names = [archive] if archive else [f"{model}.mar", model]
        for name in names:
            path = self.store / name
            if path.parent == self.store and path.exists():
                return read_archive(path)
        raise InvalidInput([Problem("archive", f"a file of the store: {' or '.join(names)}", str(self.store))])

    def workers(self, model: str) -> list[dict[str, Any]]:
        """The worker processes of a model's default version, each with `pid` and `status`."""
        return self.client.describe(model, customized=False)[0]["workers"]

    def _start(self, stack: contextlib.ExitStack) -> None:
        require("ts", "serve", "torchserve")
        self.home = Path(stack.enter_context(short_temporary_folder()))
        self.ports = choose_ports(self._port)
        if self._loaded:
            require_space(self.home, self._loaded.unpacked_bytes, f"unpacking {self._loaded.path.name}")
        self._write_config()
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
        command += ["--ts-config", "config.properties", "--model-store", str(self.store)]
        # A new session: Ctrl-C reaches this process alone, which then stops the server in order.
        self._process = subprocess.Popen(
            command,
            cwd=self.home,
            env=server_environment(self.home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = Thread(target=self._read_console, daemon=True)
        stack.callback(self._reader.join)
        stack.callback(end_process, self._process)
        self._reader.start()
        self._wait_until_up()

    def _write_config(self) -> None:
        settings = _read_properties(SERVER_PROPERTIES)
        settings["model_store"] = str(self.store)
        if self._loaded:
            settings["load_models"] = f"{self._loaded.name}={self._loaded.path.name}"
        settings["metrics_config"] = str(HANDLERS / "metrics.yaml")
        settings["disable_token_authorization"] = str(not self.token_auth).lower()
        for name, port in self.ports.items():
            host = self._hosts.get(name, LOOPBACK)
            if name.startswith("grpc"):
                settings[f"{name}_address"] = host
                settings[f"{name}_port"] = str(port)
            else:
                settings[f"{name}_address"] = f"http://{host}:{port}"
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        (self.home / "config.properties").write_text("".join(lines))

    def _read_console(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self._console.extend(lines)

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self._obituary())
            time.sleep(0.2)

    def _obituary(self) -> str:
        status = self._process.poll()
        what = f"did not answer in {START_SECONDS} s" if status is None else f"ended with status {status}"
        if status is not None:
            self._reader.join(timeout=5)
        return f"TorchServe {what}; the end of its log:\n{''.join(self._console.copy())}"

    def _is_up(self) -> bool:
        if self.token_auth and not self.key_file.exists():
            return False
        with contextlib.suppress(InvalidInput):  # TorchServe is still writing the key file
            return self.client.health()
        return False


def _read_properties(path: Path) -> dict[str, str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, value in pairs}


def _last_words(log: Path, start: int) -> str:
    """Why a worker did not start: the last error in what it logged since `start`."""
    if not log.exists():
        return ""
    text = log.read_bytes()[start:].decode(errors="replace")
    errors = [line.partition(" - ")[2] for line in text.splitlines() if re.search(r"\w(Error|Exception|Input): ", line)]
    return f"\nthe worker: {errors[-1]}" if errors else ""
