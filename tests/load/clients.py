"""Who sends the requests of a load run: clients in threads, this process for comparison, and a watch on the memory."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from hybridstitch import HybridStitchPipeline
from hybridstitch.base.extras import extra
from hybridstitch.serving.client.client import Client, ServiceError
from hybridstitch.serving.server.server import Server
from hybridstitch.serving.worker.render import generate
from hybridstitch.wire.documents import encode_picture
from hybridstitch.wire.request import parse_request
from tests.load.traffic import LoadRequest, Reply

with extra("serve"):
    import psutil

REPLY_SECONDS = 120
"""A request without an answer by then is lost."""


class Local:
    """Requests answered in this process, as the handler does it inside TorchServe."""

    def __init__(self, pair: Path):
        self._pipeline = HybridStitchPipeline.from_pretrained(pair)
        self._pipeline.set_progress_bar_config(disable=True)

    def answer(self, fields: Mapping[str, Any]) -> bytes:
        """The PNG that a request gets."""
        request = parse_request(dict(fields), {}, self._pipeline.size_limits, self._pipeline.catalogue)
        return encode_picture(generate(self._pipeline, request).images[0], request)

    def references(self, requests: Sequence[LoadRequest]) -> dict[str, np.ndarray]:
        """The pictures of the good ones among them, by key."""
        distinct = {request.key: request for request in requests if request.wrong is None}
        return {key: pixels(self.answer(request.fields)) for key, request in tqdm(distinct.items(), desc="references")}


def fire(server: Server, requests: Sequence[LoadRequest], clients: int, model: str) -> list[Reply]:
    """Send all requests from closed-loop clients, a thread and a connection each; replies as they come."""
    waiting, replies = iter(requests), []
    lock, progress = Lock(), tqdm(total=len(requests), desc=model)

    def serve_wishes() -> None:
        client = Client(server.url, server.token(), REPLY_SECONDS)
        while True:
            with lock:
                request = next(waiting, None)
            if request is None:
                return
            reply = _ask(client, request, model)
            with lock:
                replies.append(reply)
                progress.update()

    with progress, ThreadPoolExecutor(clients) as pool:
        for thread in [pool.submit(serve_wishes) for _ in range(clients)]:
            thread.result()
    return replies


def _ask(client: Client, request: LoadRequest, model: str) -> Reply:
    started = time.perf_counter()

    def reply(status: int | None, **details: Any) -> Reply:
        finished = time.perf_counter()
        return Reply(request, finished - started, finished, status, **details)

    try:
        response = client.predict(dict(request.fields), model)
    except ServiceError as error:
        refused = frozenset(problem["field"] for problem in error.problems)
        return reply(error.status or None, refused=refused, error=str(error))
    return reply(200, picture=pixels(response.content))


def pixels(picture: bytes) -> np.ndarray:
    """`(height, width, 3)` in 0..255."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@contextmanager
def memory_watched(pids: Sequence[int]) -> Iterator[list[tuple[float, float]]]:
    """Seconds and MiB that the processes together hold: at the start, then every second, and at the end."""
    processes = [psutil.Process(pid) for pid in pids]
    samples: list[tuple[float, float]] = []
    done = Event()

    def sample() -> None:
        samples.append((time.perf_counter(), sum(map(_resident, processes)) / 2**20))

    def watch() -> None:
        while not done.wait(1):
            sample()

    sample()
    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
    sample()


def _resident(process: psutil.Process) -> int:
    """Bytes, 0 of one that ended."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
