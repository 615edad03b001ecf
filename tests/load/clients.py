"""Clients that send the requests of a load test, the same pipeline in this process, and the memory of the workers."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from hybridstitch.serving.ray.server import RayServer
from hybridstitch.serving.server.server import Server
from hybridstitch.serving.worker.render import generate
from hybridstitch.wire.documents import encode_picture
from hybridstitch.wire.request import parse_request
from tests.load.traffic import LoadRequest, Reply

with extra("serve"):
    import psutil

REPLY_SECONDS = 120
"""A request that takes longer counts as lost."""


class LocalPipeline:
    """Answers requests in this process, with the code that the handler runs inside TorchServe."""

    def __init__(self, pair: Path):
        self._pipeline = HybridStitchPipeline.from_pretrained(pair)
        self._pipeline.set_progress_bar_config(disable=True)

    def answer(self, fields: Mapping[str, Any]) -> bytes:
        """Return the PNG of a valid request."""
        request = parse_request(dict(fields), {}, self._pipeline.size_limits, self._pipeline.catalogue)
        return encode_picture(generate(self._pipeline, request).images[0], request)

    def references(self, requests: Sequence[LoadRequest]) -> dict[str, np.ndarray]:
        """Return the picture of each valid request, by `LoadRequest.key`."""
        distinct = {request.key: request for request in requests if request.wrong is None}
        return {key: pixels(self.answer(request.fields)) for key, request in tqdm(distinct.items(), desc="references")}


def send_all(
    server: Server | RayServer,
    requests: Sequence[LoadRequest],
    clients: int,
    model: str,
    halfway: Callable[[], None] = lambda: None,
) -> list[Reply]:
    """Send all requests and return the replies, in the order in which they arrive.

    Each client is a thread with a connection. It sends the next request as soon as its last one is answered. `halfway`
    is called once, when half of the requests are answered.
    """
    waiting, replies = iter(requests), []
    lock, progress = Lock(), tqdm(total=len(requests), desc=model)

    def send_requests() -> None:
        client = Client(server.url, server.token(), REPLY_SECONDS)
        while True:
            with lock:
                request = next(waiting, None)
            if request is None:
                return
            reply = _send(client, request, model)
            with lock:
                replies.append(reply)
                progress.update()
                is_half = len(replies) == len(requests) // 2
            if is_half:
                halfway()

    with progress, ThreadPoolExecutor(clients) as pool:
        for thread in [pool.submit(send_requests) for _ in range(clients)]:
            thread.result()
    return replies


def _send(client: Client, request: LoadRequest, model: str) -> Reply:
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
    """Return the pixels of an encoded picture, `(height, width, 3)` in 0..255."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@contextmanager
def memory_watched(pids: Sequence[int]) -> Iterator[list[tuple[float, float]]]:
    """Yield samples (seconds, MiB) of the resident memory of all processes together, one a second.

    The first sample is taken before the block, the last one after it.
    """
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
    """Return the resident memory in bytes, 0 for a process that ended."""
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
