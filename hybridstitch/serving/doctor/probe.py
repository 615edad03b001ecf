"""Proves with tiny predictions that every worker of a model answers. READY and Healthy do not prove it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from hybridstitch.serving.client.client import Client
from hybridstitch.serving.client.replies import ServiceError, ServiceTimeout
from hybridstitch.serving.doctor.activity import Activity
from hybridstitch.wire.names import WORKER_HEADER
from hybridstitch.wire.proof import smallest_request

POLL_SECONDS = 0.2
_HEAL = "--heal scales it to no workers and back"
SPARE_ROUNDS = 2  # in one round a worker may be busy with the request of another client


class NoAnswer(RuntimeError):  # noqa: N818 - named for what was seen, not that it is an error
    """A model that does not answer as it should.

    Args:
        seen: What was observed.
        advice: What to do about it.
        curable: Whether its workers hang, so that new ones may help.
    """

    def __init__(self, seen: str, advice: str, curable: bool):
        self.advice = advice
        self.curable = curable
        super().__init__(seen)


@dataclass(frozen=True)
class Version:
    """One registered version of a model, as TorchServe describes it."""

    model: str
    described: dict[str, Any]

    @property
    def number(self) -> str:
        return self.described["modelVersion"]

    @property
    def wanted(self) -> int:
        """The number of workers that it should have."""
        return self.described["minWorkers"]

    @property
    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.described["workers"]]

    @property
    def ready(self) -> bool:
        """Whether TorchServe reports all of them as READY."""
        return sum(worker["status"] == "READY" for worker in self.described["workers"]) >= self.wanted


def versions(client: Client, model: str) -> list[Version]:
    """The registered versions of a model."""
    return [Version(model, each) for each in client.describe(f"{model}/all", customized=False)]


def await_ready(client: Client, version: Version, seconds: float) -> Version:
    """Wait until all workers are READY and return the version then. Raises NoAnswer after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        now = next((each for each in versions(client, version.model) if each.number == version.number), version)
        if now.ready:
            return now
        if time.monotonic() > deadline:
            states = ", ".join(worker["status"] for worker in now.described["workers"]) or "none at all"
            advice = f"model_log.log of the server has the cause; {_HEAL}"
            raise NoAnswer(f"{version.wanted} workers READY were expected, found {states}", advice, True)
        time.sleep(POLL_SECONDS)


def describe(client: Client, version: Version) -> dict[str, Any] | None:
    """The endpoint's own description, which a worker sends; None for an endpoint of another project.

    Raises:
        NoAnswer: If no worker answers within the client's timeout.
    """
    try:
        found = _in_time(client, version, lambda: client.describe(f"{version.model}/{version.number}"))
        custom = found[0]["customizedMetadata"]
        if "hybridstitch" not in custom["versions"] or "minimum" not in custom["limits"]:
            return None
    except (ServiceError, KeyError, TypeError):
        return None
    if not custom.get("copy_on_disk", True):
        advice = "register the archive again, and keep cleaners away from the server's temporary folder"
        raise NoAnswer("its unpacked copy was deleted: a worker that restarts cannot load its models", advice, False)
    return custom


def generate_on_all(client: Client, version: Version, description: dict[str, Any]) -> str:
    """Let every worker generate the smallest picture with all of its models, and return the result in words.

    Idle workers take turns, and a header of the answer names the worker.

    Raises:
        NoAnswer: If a prediction fails or takes longer than the client's timeout, or if a worker answered none.
    """
    side = description["limits"]["minimum"]
    payload = smallest_request(side, recipes=bool(description.get("recipes")))
    before = Activity.of(version.pids)
    silent, sent, slowest, named = set(version.pids), 0, 0.0, True
    for _ in range(version.wanted + SPARE_ROUNDS):
        generated = _generate_at_once(client, version, payload)
        slowest = max(slowest, *(each.seconds for each in generated))
        sent += len(generated)
        named = all(each.worker is not None for each in generated)
        silent -= {each.worker for each in generated}
        if not (silent and named):
            break
    if silent and named:
        seen = f"READY, but {_processes(silent)} took none of {sent} predictions"
        if busy := silent & before.active_until(Activity.of(version.pids)):
            # New workers would end the requests of other clients.
            raise NoAnswer(f"{seen}; busy: {_processes(busy)}", "wait until its request has ended", False)
        raise NoAnswer(seen, _HEAL, True)
    models = "by both models" if "recipe" in payload else "in two steps"
    found = f"generated {side}x{side} {models}, the slowest in {slowest:.2f} s"
    if named:
        who = "its worker" if version.wanted == 1 else f"each of {version.wanted} workers"
        return f"{who} {found}"
    which = "" if version.wanted == 1 else "; the answers do not name their workers"
    return f"{version.wanted} of {version.wanted} predictions at once: {found}{which}"


@dataclass(frozen=True)
class _Generated:
    """An answered prediction: its seconds, and the process id of the worker if the answer names it."""

    seconds: float
    worker: int | None


def _generate_at_once(client: Client, version: Version, payload: dict[str, Any]) -> list[_Generated]:
    """Send as many predictions at once as there are workers."""

    def generate(_: int) -> _Generated:
        started = time.monotonic()
        try:
            answer = _in_time(client, version, lambda: client.predict(payload, f"{version.model}/{version.number}"))
        except ServiceError as error:
            if error.status < 500:
                raise
            raise NoAnswer(str(error), f"model_log.log of the server has the cause; {_HEAL}", True) from error
        _check_picture(answer.content, payload)
        worker = answer.headers.get(WORKER_HEADER, "")
        return _Generated(time.monotonic() - started, int(worker) if worker.isdecimal() else None)

    with ThreadPoolExecutor(version.wanted) as threads:
        return list(threads.map(generate, range(version.wanted)))


def _check_picture(content: bytes, payload: dict[str, Any]) -> None:
    wanted = (payload["width"], payload["height"])
    try:
        size = Image.open(io.BytesIO(content)).size
    except UnidentifiedImageError:
        raise NoAnswer(f"its answer is no picture: {content[:80]!r}", "look at model_log.log", False) from None
    if size != wanted:
        raise NoAnswer(f"its picture has {size} pixels instead of {wanted}", "look at model_log.log", False)


def _in_time(client: Client, version: Version, call: Callable[[], Any]) -> Any:
    """The result of a call. Raises NoAnswer if the call takes longer than the client's timeout."""
    before = Activity.of(version.pids)
    try:
        return call()
    except ServiceTimeout:
        limit = f"no answer within {client.timeout:g} s"
        if before.active_until(Activity.of(version.pids)):
            # New workers would end the requests of other clients.
            raise NoAnswer(f"{limit}, but its workers are busy", "wait, or a longer --timeout", False) from None
        raise NoAnswer(f"READY, but {limit}: its workers do nothing", _HEAL, True) from None


def _processes(pids: set[int]) -> str:
    return f"worker process {', '.join(map(str, sorted(pids)))}"
