"""Shadow mode: sends a sampled share of real requests to both endpoints and stores the answers."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from queue import Full, Queue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self, cast

from hybridstitch.base.journal import append_entries, read_entries, write_whole
from hybridstitch.base.prompt_files import SHOWN, json_lines, read_text
from hybridstitch.base.texts import text_problem
from hybridstitch.compare.endpoints.spec import OF_THE_RUN, Endpoint, without_secrets
from hybridstitch.compare.measured import Measurer
from hybridstitch.compare.measures import Measures
from hybridstitch.compare.run.folder import Folder
from hybridstitch.compare.run.order import SIDES
from hybridstitch.compare.shadow.drift import page, sentence, summarise
from hybridstitch.errors import InvalidInput, Problem, raise_problems

WAITING = 64
"""The most requests that wait. Further ones are dropped and counted as `let_go`."""
REQUESTS = "requests.jsonl"
Request = Mapping[str, Any]


class Shadow:
    """A context manager whose thread sends a share of the offered requests, one sample at a time.

    Call `offer` with every request inside the `with` block. The report is complete after the block.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        out: Path,
        share: float = 0.1,
        seed: int = 0,
        limit: int = 1000,
        window: int = 20,
        replay: bool = False,
    ):
        """Prepare a shadow run. Nothing is sent before the `with` block.

        Args:
            endpoints: Both endpoints by side.
            out: Folder for requests, answers, pictures and the report. A run into a folder of the same settings
                continues it.
            share: Share of the requests, above 0 to 1. A hash of the request and `seed` selects them, so a request is
                selected always or never.
            seed: Seed of the selection.
            limit: The most samples in the folder, with those of earlier runs, at least 1.
            window: Samples of one window of time in the report, at least 2.
            replay: Whether each run is offered the same requests, such as those of a file. Requests that an earlier
                run has answered are then skipped.

        Raises:
            InvalidInput: A number is out of range. Entering the `with` block raises it for a folder of other settings.
        """
        problems = [Problem("share", "0 to 1, not 0", share)] if not 0 < share <= 1 else []
        problems += [Problem("limit", "1 or more", limit)] if limit < 1 else []
        problems += [Problem("window", "2 or more", window)] if window < 2 else []
        raise_problems(problems)
        self.endpoints, self.share, self.seed, self.limit, self.window = endpoints, share, seed, limit, window
        self.folder, self._replay = Folder(out), replay
        self.counts = {"offered": 0, "chosen": 0, "sent": 0, "let_go": 0}
        self.report: dict[str, Any] = {}
        self._queue: Queue[Request | None] = Queue(WAITING)
        self._thread = Thread(target=self._work, daemon=True)
        self._stack = ExitStack()
        self._lock = Lock()
        self._failed: Exception | None = None
        self._stopping = False

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a folder must have for a run to continue in it."""
        described = {side: without_secrets(endpoint.spec.text) for side, endpoint in self.endpoints.items()}
        return {"shadow": described, "share": self.share, "seed": self.seed, "window": self.window}

    @property
    def sentence(self) -> str:
        """The result in one sentence, after the `with` block."""
        return sentence(self.report)

    def __enter__(self) -> Self:
        self._stack.enter_context(self.folder.opened(self.settings))
        self._number = self._room_taken = len(self.folder.complete())
        self._passed_over = self._number if self._replay else 0
        self._session = self.folder.begin_session({"begun": time.time()})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            self._stopping = kind is not None  # then waiting requests are dropped
            self._queue.put(None)
            self._thread.join()
            self._write()
        if self._failed:
            raise RuntimeError(f"shadow: {self._failed}") from self._failed

    def chooses(self, request: Request) -> bool:
        """Return whether a request belongs to the share."""
        text = json.dumps([self.seed, dict(request)], sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < self.share * 2**64

    def offer(self, request: Request, wait: bool = False) -> bool:
        """Queue a request if it belongs to the share and there is room.

        Args:
            request: The body of a request, with a `prompt`.
            wait: Whether to block until there is room in the queue. False returns at once.

        Returns:
            Whether the request was queued.

        Raises:
            InvalidInput: The request has no prompt, or a wrong seed.
        """
        raise_problems(request_problems(request, "request"))
        with self._lock:
            self.counts["offered"] += 1
            if not self.chooses(request):
                return False
            self.counts["chosen"] += 1
            if self.counts["chosen"] <= self._passed_over or self._room_taken >= self.limit:
                return False
            self._room_taken += 1
        try:
            self._queue.put(request, block=wait)
        except Full:
            with self._lock:
                self.counts["let_go"] += 1
                self._room_taken -= 1
            return False
        return True

    def _work(self) -> None:
        while (request := self._queue.get()) is not None:
            if not (self._failed or self._stopping):
                try:
                    self._ask(request)
                except Exception as error:  # such as a full disk: the shadow ends, the service goes on
                    self._failed = error

    def _ask(self, request: Request) -> None:
        digest = hashlib.sha256(json.dumps(dict(request), sort_keys=True).encode()).digest()
        given = request.get("seed")
        seed = given if isinstance(given, int) else int.from_bytes(digest[:6], "big")
        fields = {name: value for name, value in request.items() if name not in ("prompt", "seed", *OF_THE_RUN)}
        cell = (self._number, seed)
        append_entries(self.folder.path / REQUESTS, {"number": self._number, "request": dict(request)})
        for side in SIDES if digest[-1] % 2 else SIDES[::-1]:
            started = time.time()
            answer = self.endpoints[side].ask(request["prompt"], seed, fields)
            self.folder.add(side, cell, answer, started, self._session)
        self._number += 1
        self.counts["sent"] += 1

    def _write(self) -> None:
        texts = {each["number"]: each["request"]["prompt"] for each in read_entries(self.folder.path / REQUESTS)}
        prompts = [texts.get(number, "") for number in range(max(texts, default=0) + 1)]
        samples = Measurer(self.folder, prompts, Measures()).samples(sorted(self.folder.complete()))
        self.report = summarise(samples, self.window, self.counts, self.settings)
        write_whole(self.folder.path / "shadow.json", json.dumps(self.report, indent=1))
        write_whole(self.folder.path / "shadow.html", page(self.report))


def read_requests(path: Path) -> list[Request]:
    """Return the bodies of requests in a JSON Lines file. Raises InvalidInput that names every wrong line."""
    found: list[Request] = []
    problems: list[Problem] = []
    for where, request in json_lines(read_text(path, "requests", "a .jsonl file of requests"), "requests"):
        wrong = [request] if isinstance(request, Problem) else request_problems(request, where)
        problems += wrong
        if not wrong:
            found.append(cast(Request, request))
    raise_problems(problems[:SHOWN])
    if not found:
        raise InvalidInput([Problem("requests", "at least one request", str(path))])
    return found


def request_problems(request: object, where: str) -> list[Problem]:
    """Return what is wrong with a request: it needs a prompt, and a `seed` must be one that a request can name."""
    if not isinstance(request, Mapping):
        return [Problem(where, "an object with a prompt", request)]
    prompt, seed = text_problem(f"{where} prompt", request.get("prompt")), request.get("seed")
    problems = [prompt] if prompt else []
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**53):
        problems.append(Problem(f"{where} seed", "a whole number of 0 to 2^53-1, or null", seed))
    return problems
