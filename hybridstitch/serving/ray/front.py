"""The entry of all requests on Ray Serve: paths, tokens, streams, retries and metrics. It has no torch."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from hybridstitch.serving.client.auth import read_keys
from hybridstitch.serving.client.replies import INVALID_KEY
from hybridstitch.serving.ray.body import values_of
from hybridstitch.serving.ray.counts import CONTENT_TYPE, Counts
from hybridstitch.serving.worker.messages import BEGUN, LAST, Count, Piece, Request
from hybridstitch.serving.worker.ray import ModelOptions
from hybridstitch.wire.names import STREAM_TYPE

MAX_REQUEST_BYTES = 262144
"""As `max_request_size` in config.properties."""
TRIES = 3
"""How often a request that no worker has begun is given to a replica."""
OPENAI = "v1"
"""The first part of the paths that OpenAI's clients use."""
IMAGES = ("v1", "images", "generations")
WORKER_LOST = "worker_lost"
"""The type of the error for a request whose worker ended."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A model with the handle of its replicas."""

    options: ModelOptions
    replicas: int
    handle: DeploymentHandle[Any]


class Front:
    """Answers at the paths of TorchServe and of OpenAI's clients.

    A request that a worker has begun is lost with the worker, and its client gets 503 `worker_lost`. It is not
    repeated, because it may be what ended the worker. Any other request goes to another replica.

    Args:
        models: What is served, the first one of each name being its default version.
        key_file: A key_file.json with the tokens "inference" and "management". It is read for every request, so it may
            be renewed. None: requests need no token.
    """

    def __init__(self, models: Sequence[Served], key_file: str | None):
        self._models = list(models)
        self._key_file = key_file
        self._counts = Counts()
        self._at_work = 0
        self._drains = False
        self._started = int(time.time())

    async def __call__(self, request: HttpRequest) -> Response:
        """Answer one request."""
        parts = [part for part in request.url.path.split("/") if part]
        head = parts[0] if parts else ""
        if head == "ping":
            return _json({"status": "Healthy"})
        kind = "management" if head in ("models", "metrics") else "inference"
        if not self._has_token(request, kind):
            return server_error(401, INVALID_KEY, f"a valid {kind} token is needed: Authorization: Bearer TOKEN", parts)
        if request.method == "GET":
            return await self._read(request, parts)
        if request.method == "POST" and (head in ("predictions", "explanations") or tuple(parts) == IMAGES):
            return await self._generate(request, parts)
        return _nothing_at(request, parts)

    def count(self, model: str, version: str, counts: Sequence[Count]) -> None:
        """Add what a batch counted."""
        self._counts.add(model, version, counts)

    async def drain(self) -> None:
        """Refuse further requests, and return when all others are answered."""
        self._drains = True
        while self._at_work:
            await asyncio.sleep(0.05)

    def _has_token(self, request: HttpRequest, kind: str) -> bool:
        if self._key_file is None:
            return True
        keys, problem = read_keys(self._key_file, tries=1)
        if problem:
            logger.error("the key file cannot be read: %s", problem)
        key = keys.get(kind, {}).get("key") if isinstance(keys.get(kind), dict) else None
        given = request.headers.get("authorization", "")
        return bool(key) and hmac.compare_digest(given.encode(), f"Bearer {key}".encode())

    async def _read(self, request: HttpRequest, parts: Sequence[str]) -> Response:
        match parts:
            case ["metrics"]:
                return Response(self._counts.text(), headers={"content-type": CONTENT_TYPE})
            case ["v1", "models"]:
                names = dict.fromkeys(each.options.name for each in self._models)
                about = {"object": "model", "created": self._started, "owned_by": "hybridstitch"}
                return _json({"object": "list", "data": [{"id": name, **about} for name in names]})
            case ["models"]:
                listed = [{"modelName": each.options.name, "modelUrl": each.options.folder} for each in self._models]
                return _json({"models": listed})
            case ["models", name, *version] if len(version) < 2:
                return await self._describe(name, version, request.query_params.get("customized") == "true")
        return _nothing_at(request, parts)

    async def _describe(self, name: str, version: Sequence[str], is_customized: bool) -> Response:
        of_name = [each for each in self._models if each.options.name == name]
        wanted = version[0] if version else None
        found = [each for each in of_name if wanted in (None, "all", each.options.version)]
        if not found:
            return _unknown(name, version, ())
        described = []
        for each in found if wanted == "all" else found[:1]:
            options = each.options
            entry = {
                "modelName": name, "modelVersion": options.version, "modelUrl": options.folder, "engine": "Ray Serve",
                "minWorkers": each.replicas, "maxWorkers": each.replicas, "batchSize": options.batch_size,
                "maxBatchDelay": round(1000 * options.batch_delay), "responseTimeout": options.response_timeout,
                "workers": [], "jobQueueStatus": {"remainingCapacity": options.queue, "pendingRequests": 0},
            }  # fmt: skip
            if is_customized:
                try:
                    entry["customizedMetadata"] = await each.handle.describe.remote()
                except BackPressureError:
                    return _queue_is_full(name, ())
                except (RayError, RayServeException) as error:
                    return server_error(503, WORKER_LOST, f"{name}: the worker ended: {type(error).__name__}", ())
            described.append(entry)
        return _json(described)

    async def _generate(self, request: HttpRequest, parts: Sequence[str]) -> Response:
        if self._drains:
            return server_error(503, "ServiceUnavailableException", "the server is stopping", parts)
        try:
            body = await _body(request)
        except ClientDisconnect:
            return server_error(400, "BadRequestException", "the body ended early", parts)  # nobody reads it
        if body is None:
            message = f"the request exceeds {MAX_REQUEST_BYTES} bytes"
            return server_error(413, "RequestEntityTooLargeException", message, parts)
        if parts[0] == OPENAI:
            served, path = self._of_body(body), "/".join(parts)
        else:
            name, version, path = parts[1] if len(parts) > 1 else "", parts[2:3], "/".join(parts[3:])
            found = self._find(name, version)
            if found is None:
                return _unknown(name, version, parts)
            served = found
        headers = {each.lower(): value for each, value in request.headers.items()}
        # A form can take seconds to split, and other requests must not wait for it.
        values, types = await asyncio.to_thread(values_of, body, headers.get("content-type", ""))
        called = f"Ray's {headers.get('x-request-id', '')}"
        asked = Request(values, headers, types, path, parts[0] == "explanations", called)
        return await self._answer(served, asked, parts)

    async def _answer(self, served: Served, request: Request, parts: Sequence[str]) -> Response:
        pieces = self._pieces(served, request, parts)
        first = await anext(pieces)
        headers = {**first.headers, "content-type": first.content_type}
        if first.stage == LAST:
            await pieces.aclose()
            return Response(first.body, first.status, headers)
        return StreamingResponse(_bodies(first, pieces), first.status, headers)

    async def _pieces(self, served: Served, request: Request, parts: Sequence[str]) -> AsyncGenerator[Piece]:
        """Yield the answer of a replica, or of the next one if the first is lost before it begins.

        The request is at work until this generator ends, which it also does for a client that has left.
        """
        self._at_work += 1
        try:
            async for piece in self._tried(served, request, parts):
                yield piece
        finally:
            self._at_work -= 1

    async def _tried(self, served: Served, request: Request, parts: Sequence[str]) -> AsyncGenerator[Piece]:
        options, lost, content_type = served.options, "", ""
        for _ in range(TRIES):
            has_begun = False
            try:
                async for piece in served.handle.options(stream=True).answer.remote(request):
                    if piece.stage == BEGUN:
                        has_begun = True
                        continue
                    content_type = piece.content_type
                    yield piece
                    if piece.stage == LAST:
                        return
                return
            except BackPressureError:
                yield _piece_of(_queue_is_full(options.name, parts))
                return
            except RequestCancelledError:  # its client has left: no other replica shall begin with it
                raise
            except (RayError, RayServeException) as error:
                lost = f"{options.name}: the worker ended: {type(error).__name__}"
                logger.error("%s, %s", lost, "its request is lost" if has_begun else "the request is sent again")
                if has_begun:
                    break
        count = Count("HybridStitchRequests", 1, ("none", "none", WORKER_LOST))
        self._counts.add(options.name, options.version, [count])
        yield lost_piece(lost, content_type) if content_type else _piece_of(server_error(503, WORKER_LOST, lost, parts))

    def _find(self, name: str, version: Sequence[str]) -> Served | None:
        for each in self._models:
            if each.options.name == name and (not version or version[0] == each.options.version):
                return each
        return None

    def _of_body(self, body: bytes) -> Served:
        """The model that a body names; the first one for a body that names none of them."""
        named = None
        with suppress(ValueError, RecursionError):
            fields = json.loads(body)
            named = fields.get("model") if isinstance(fields, dict) else None
        return (self._find(named, ()) if isinstance(named, str) else None) or self._models[0]


def lost_piece(message: str, content_type: str) -> Piece:
    """Return the last piece of a stream whose worker ended: the event `error` in the form of the stream's dialect."""
    error: dict[str, Any] = {"type": WORKER_LOST, "message": message}
    if content_type == STREAM_TYPE:
        text = json.dumps({"event": "error", "error": error}) + "\n"
    else:
        error = {"message": message, "type": "server_error", "param": None, "code": WORKER_LOST}
        text = f"event: error\ndata: {json.dumps({'type': 'error', 'error': error})}\n\n"
    return Piece(LAST, text.encode(), content_type)


async def _bodies(first: Piece, others: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
    yield first.body
    async for piece in others:
        yield piece.body


async def _body(request: HttpRequest) -> bytes | None:
    """The body of a request; None for one that is too long. Raises ClientDisconnect if its client leaves."""
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MAX_REQUEST_BYTES:
            return None
    return bytes(found)


def _nothing_at(request: HttpRequest, parts: Sequence[str]) -> Response:
    message = f"nothing is served at {request.method} {request.url.path}"
    return server_error(404, "ResourceNotFoundException", message, parts)


def _unknown(name: str, version: Sequence[str], parts: Sequence[str]) -> Response:
    if version:
        message = f"Model version: {version[0]} does not exist for model: {name}"
        return server_error(404, "ModelVersionNotFoundException", message, parts)
    return server_error(404, "ModelNotFoundException", f"Model not found: {name}", parts)


def server_error(status: int, kind: str, message: str, parts: Sequence[str]) -> Response:
    """An error of the server itself, in TorchServe's form, and at the paths of OpenAI's clients in theirs."""
    if [*parts[:1]] == [OPENAI] or tuple(parts[-len(IMAGES) :]) == IMAGES:
        error = {"message": message, "type": "invalid_request_error" if status < 500 else "server_error"}
        return _json({"error": {**error, "param": None, "code": kind}}, status)
    return _json({"code": status, "type": kind, "message": message}, status)


def _queue_is_full(name: str, parts: Sequence[str]) -> Response:
    return server_error(503, "ServiceUnavailableException", f"{name}: the queue is full", parts)


def _json(document: Any, status: int = 200) -> Response:
    return Response(json.dumps(document).encode(), status, {"content-type": "application/json"})


def _piece_of(answer: Response) -> Piece:
    return Piece(LAST, bytes(answer.body), "application/json", {}, answer.status_code)
