"""The adapter to Ray Serve: one replica with its own models. It batches, streams and counts by Ray's means."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve

from hybridstitch.serving.worker.messages import BEGUN, LAST, PART, Count, Piece, Request

if TYPE_CHECKING:
    from hybridstitch.serving.worker.service import Service
    from hybridstitch.wire.documents import Response

GRACE = 1.5
"""A batch that takes more response timeouts than this hangs: the service ends its work within one."""


@dataclass(frozen=True)
class ModelOptions:
    """What a replica serves, and how.

    Attributes:
        name: The model's name.
        version: Its version.
        folder: The unpacked archive.
        is_plain: Whether it is the large model in diffusers' own pipeline.
        workers: Replicas of the model that share a machine's memory.
        batch_size: The most requests of a batch.
        batch_delay: Seconds to wait for a full batch.
        queue: The most waiting requests.
        response_timeout: Seconds within which a batch is answered.
    """

    name: str
    version: str
    folder: str
    is_plain: bool
    workers: int
    batch_size: int
    batch_delay: float
    queue: int
    response_timeout: float


@dataclass(frozen=True)
class _Asked:
    request: Request
    put: Callable[[Piece], None]


class RayWorker:
    """A replica of one model. Ray creates it, and it is ready when the constructor returns.

    Args:
        options: What to serve.
        front: The deployment of the same application that receives what each batch counted.

    Raises:
        InvalidInput: A setting or a default is wrong, or the models do not fit together.
        FloatingPointError: The output of a model is not finite.
    """

    def __init__(self, options: ModelOptions, front: str):
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        self._options, self._front = options, front
        self._began: float | None = None
        self._thread = ThreadPoolExecutor(1)  # one batch at a time, while the event loop sends the pieces
        self._batch.set_max_batch_size(options.batch_size)
        self._batch.set_batch_wait_timeout_s(options.batch_delay if options.batch_size > 1 else 0.0)
        # At its end: modules of the operator's own strategies lie beside the archive's copy of this package.
        sys.path.append(options.folder)
        self._service = _started(options)

    async def answer(self, request: Request) -> AsyncIterator[Piece]:
        """Yield the pieces of the answer. The first one reports that the work on the request begins."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()

        def put(piece: Piece) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        task = asyncio.ensure_future(self._batch(_Asked(request, put)))
        task.add_done_callback(lambda ended: _put_error(ended, pieces))
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if piece.stage == LAST:
                    return
        finally:
            task.cancel()  # a request whose client has left is not begun any more

    async def describe(self) -> dict[str, Any]:
        """Describe the endpoint, as `Service.describe` does."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._service.describe)

    def check_health(self) -> None:
        """Raise RuntimeError if a batch hangs, so that Ray replaces the replica."""
        limit = GRACE * self._options.response_timeout
        if self._began is not None and time.monotonic() - self._began > limit:
            raise RuntimeError(f"a batch has taken more than {limit:g} s")

    @serve.batch
    async def _batch(self, asked: list[_Asked]) -> list[None]:
        for each in asked:
            each.put(Piece(BEGUN))
        counter = _Counter()
        self._began = time.monotonic()
        try:
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._answer, asked, counter)
            await asyncio.shield(work)
        finally:
            self._began = None
        handle = serve.get_deployment_handle(self._front, serve.get_replica_context().app_name)
        handle.count.remote(self._options.name, self._options.version, counter.counts)
        return [None] * len(asked)

    def _answer(self, asked: Sequence[_Asked], counter: _Counter) -> None:
        from hybridstitch.serving.worker.metrics import Metrics
        from hybridstitch.serving.worker.row import Row

        rows = [
            Row(
                each.request.values,
                each.request.headers,
                lambda response, each=each: each.put(_piece(PART, response)),  # type: ignore[misc]
                each.request.types,
                each.request.path,
                is_explanation=each.request.is_explanation,
                name=each.request.name,
            )
            for each in asked
        ]
        for each, answer in zip(asked, self._service.answer(rows, Metrics(counter)), strict=True):
            each.put(_piece(LAST, answer))


class _Counter:
    """Keeps what a batch counts until the front gets it."""

    def __init__(self) -> None:
        self.counts: list[Count] = []

    def add(self, name: str, value: float, labels: Sequence[str]) -> None:
        self.counts.append(Count(name, value, tuple(labels)))


def _started(options: ModelOptions) -> Service:
    """The service of a model, ready for requests."""
    from hybridstitch.serving.config import read_config
    from hybridstitch.serving.worker.plain import PlainService
    from hybridstitch.serving.worker.service import Setup
    from hybridstitch.serving.worker.stitched import StitchedService

    folder = Path(options.folder)
    config = read_config(folder / "model-config.yaml")
    config |= {"minWorkers": options.workers, "maxWorkers": options.workers}
    gpu = 0 if ray.get_runtime_context().get_accelerator_ids().get("GPU") else None  # Ray shows a replica its own alone
    service: Service = PlainService() if options.is_plain else StitchedService()
    service.start(Setup(folder, config, gpu, options.response_timeout, "ray", options.name, options.version))
    return service


def _piece(stage: str, response: Response) -> Piece:
    return Piece(stage, response.body, response.content_type, response.headers, response.status)


def _put_error(ended: asyncio.Future[None], pieces: asyncio.Queue[Piece | BaseException]) -> None:
    """Pass on the error of a batch: otherwise its request would wait for ever."""
    if not ended.cancelled() and (error := ended.exception()) is not None:
        pieces.put_nowait(error)
