"""Whether every worker of a model answers: shown by tiny predictions, since READY and Healthy only say so."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from hybridstitch.serving.answers import ServiceError, ServiceTimeout
from hybridstitch.serving.client import Client
from hybridstitch.serving.worker import Sighting

POLL_SECONDS = 0.2
_HEAL = "--heal scales it to no workers and back"
SPARE_ROUNDS = 2  # a round may find a worker at the work of somebody else
EXIT_SECONDS = 1.0  # a worker whose connection was closed wakes up, too: to end


class NoAnswer(RuntimeError):  # noqa: N818 - named for what was seen, not that it is an error
    """A model did not do what it should, and what was seen. `curable`: its workers stand still, new ones may help."""

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
        """How many workers it is meant to have."""
        return self.described["minWorkers"]

    @property
    def pids(self) -> list[int]:
        return [worker["pid"] for worker in self.described["workers"]]

    @property
    def ready(self) -> bool:
        """Whether TorchServe believes that all of them are."""
        return sum(worker["status"] == "READY" for worker in self.described["workers"]) >= self.wanted


def versions(client: Client, model: str) -> list[Version]:
    """The registered versions of a model."""
    return [Version(model, each) for each in client.describe(f"{model}/all", customized=False)]


def await_ready(client: Client, version: Version, seconds: float) -> Version:
    """The version as it is once all its workers are READY. Raises NoAnswer if they are not after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        now = next((each for each in versions(client, version.model) if each.number == version.number), version)
        if now.ready:
            return now
        if time.monotonic() > deadline:
            states = ", ".join(worker["status"] for worker in now.described["workers"]) or "none at all"
            advice = f"model_log.log of the server says why; {_HEAL}"
            raise NoAnswer(f"{version.wanted} workers READY were expected, found {states}", advice, True)
        time.sleep(POLL_SECONDS)


def describe(client: Client, version: Version) -> dict[str, Any] | None:
    """What the endpoint says of itself, through a worker; None if it is not one of ours.

    Raises NoAnswer if no worker says anything within the client's timeout.
    """
    try:
        found = _in_time(client, version, lambda: client.describe(f"{version.model}/{version.number}"))
        custom = found[0]["customizedMetadata"]
        return custom if "hybridstitch" in custom["versions"] and "minimum" in custom["limits"] else None
    except (ServiceError, KeyError, TypeError):
        return None


def draw_on_all(client: Client, version: Version, description: dict[str, Any]) -> str:
    """Let every worker draw the smallest picture in one step, and say what that proves.

    Raises NoAnswer if a prediction fails or takes longer than the client's timeout, or if a worker took none.
    """
    side = description["limits"]["minimum"]
    payload = {"prompt": "x", "seed": 0, "num_inference_steps": 1, "width": side, "height": side}
    if "small" in description.get("recipes", ()):
        payload["recipe"] = "small"
    seen = Sighting.of(version.pids)
    _check_alive(version, seen)
    silent, sent, slowest = set(seen.doings), 0, 0.0
    for _ in range(version.wanted + SPARE_ROUNDS if silent else 1):
        slowest = max(slowest, _draw_at_once(client, version, payload))
        sent += version.wanted
        silent -= seen.active_until(Sighting.of(version.pids))
        if not silent:
            break
    if silent:
        raise NoAnswer(f"READY, but {_processes(silent)} took none of {sent} predictions", _HEAL, True)
    if seen.doings:
        time.sleep(EXIT_SECONDS)
        _check_alive(version, Sighting.of(version.pids))
    drawn = f"drew {side}x{side} in one step, the slowest in {slowest:.2f} s"
    if seen.doings:
        return f"each of {version.wanted} workers {drawn}"
    which = "" if version.wanted == 1 else "; which worker drew which cannot be seen from here"
    return f"{version.wanted} of {version.wanted} predictions at once: {drawn}{which}"


def _check_alive(version: Version, seen: Sighting) -> None:
    gone = set(version.pids) - seen.doings.keys()
    if seen.doings and gone:
        raise NoAnswer(f"READY, but {_processes(gone)} ended", _HEAL, True)


def _draw_at_once(client: Client, version: Version, payload: dict[str, Any]) -> float:
    """As many predictions at once as there are workers; the seconds that the slowest took."""

    def draw(_: int) -> float:
        started = time.monotonic()
        try:
            answer = _in_time(client, version, lambda: client.predict(payload, f"{version.model}/{version.number}"))
        except ServiceError as error:
            if error.status < 500:
                raise
            raise NoAnswer(str(error), f"model_log.log of the server says why; {_HEAL}", True) from error
        _check_picture(answer.content, payload)
        return time.monotonic() - started

    with ThreadPoolExecutor(version.wanted) as threads:
        return max(threads.map(draw, range(version.wanted)))


def _check_picture(content: bytes, payload: dict[str, Any]) -> None:
    wanted = (payload["width"], payload["height"])
    try:
        size = Image.open(io.BytesIO(content)).size
    except UnidentifiedImageError:
        raise NoAnswer(f"its answer is no picture: {content[:80]!r}", "look at model_log.log", False) from None
    if size != wanted:
        raise NoAnswer(f"its picture has {size} pixels instead of {wanted}", "look at model_log.log", False)


def _in_time(client: Client, version: Version, call: Callable[[], Any]) -> Any:
    """What a call returns. Raises NoAnswer if it takes longer than the client's timeout."""
    before = Sighting.of(version.pids)
    try:
        return call()
    except ServiceTimeout:
        limit = f"no answer within {client.timeout:g} s"
        if before.active_until(Sighting.of(version.pids)):
            # New workers would end what these are doing for somebody.
            raise NoAnswer(f"{limit}, but its workers are busy", "wait, or a longer --timeout", False) from None
        raise NoAnswer(f"READY, but {limit}: its workers do nothing", _HEAL, True) from None


def _processes(pids: set[int]) -> str:
    return f"worker process {', '.join(map(str, sorted(pids)))}"
