"""How TorchServe hands a request to a handler and takes its answer; both handlers use it, nothing else does."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch
from ts.context import Context
from ts.utils.util import PredictionException

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.response import Answer

PAIR_FOLDER = "pair"  # where an archive keeps the models
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What the archive and the `handler:` section of its model-config.yaml say."""

    folder: Path
    device: torch.device
    dtype: torch.dtype
    defaults: Mapping[str, Any]
    strategies: Mapping[str, Any] | None


@dataclass(frozen=True)
class Row:
    """One request as TorchServe gives it: its values by key, and its headers with lower-case names."""

    values: Mapping[str, Any]
    headers: Mapping[str, str]


def read_settings(context: Context) -> Settings:
    """The settings of this worker. Raises InvalidInput if the `handler:` section is not understood."""
    section = (context.model_yaml_config or {}).get("handler") or {}
    known = {"dtype", "defaults", "strategies", "profile"}  # the last one is TorchServe's own
    problems = [
        Problem(f"handler.{name}", f"one of: {', '.join(sorted(known))}", section[name])
        for name in section
        if name not in known
    ]
    dtype = section.get("dtype", "float32")
    if dtype not in DTYPES:
        problems.append(Problem("handler.dtype", f"one of: {', '.join(DTYPES)}", dtype))
    if problems:
        raise InvalidInput(problems)
    properties = context.system_properties
    gpu = properties.get("gpu_id")
    uses_gpu = gpu is not None and torch.cuda.is_available()
    return Settings(
        folder=Path(properties["model_dir"], PAIR_FOLDER),
        device=torch.device("cuda", gpu) if uses_gpu else torch.device("cpu"),
        dtype=DTYPES[dtype],
        defaults=section.get("defaults") or {},
        strategies=section.get("strategies"),
    )


def read_rows(rows: list[dict[str, Any]], context: Context) -> list[Row]:
    """Each request of a batch with its headers."""
    return [Row(values, _headers(context, index)) for index, values in enumerate(rows)]


def decode_payload(row: Row) -> Any:
    """The JSON value that the client sent. Raises InvalidInput for another content type and for broken JSON."""
    if not _is_http(row.headers):
        value = row.values.get("data")
    else:
        content_type = row.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise InvalidInput([Problem("content-type", "application/json", content_type)])
        value = row.values.get("body")
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        return json.loads(value.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidInput([Problem("body", "valid JSON in UTF-8", str(error))]) from error


def send(answer: Answer, context: Context, index: int, alone: bool) -> bytes:
    """Set status, type and headers of one answer of the batch, and return its body.

    gRPC has no place for a status of ours, so there an error answer is raised if the request is `alone` in its
    batch: raising fails the whole batch, and neighbours must not suffer. An answer that is not raised says that no
    stream follows: without that, StreamPredictions on this handler would end the worker.
    """
    if not _is_http(_headers(context, index)):
        if answer.status >= 400 and alone:
            raise PredictionException(answer.body.decode(), answer.status)
        context.set_response_header(index, "ts_stream_next", "false")
    context.set_response_status(answer.status, HTTPStatus(answer.status).phrase, index)
    context.set_response_content_type(index, answer.content_type)
    for name, value in answer.headers.items():
        context.set_response_header(index, name, value)
    return answer.body


@contextmanager
def logged_step(name: str) -> Iterator[None]:
    """Log how long a named step of the start took, so that a slow start explains itself."""
    started = time.perf_counter()
    yield
    logger.info("start: %s took %.2f s", name, time.perf_counter() - started)


def _headers(context: Context, index: int) -> dict[str, str]:
    # TorchServe files the types of multipart fields, as dicts, among the headers.
    headers = context.get_all_request_header(index)
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def _is_http(headers: Mapping[str, str]) -> bool:
    return "host" in headers  # required by HTTP/1.1; over gRPC no header arrives at all
