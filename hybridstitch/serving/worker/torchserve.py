"""The exchange with TorchServe: reads the rows of its batches, and sends bodies and headers."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from ts.context import Context
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException

from hybridstitch.wire.body import decode_body, decode_fields
from hybridstitch.wire.documents import Response
from hybridstitch.wire.names import REQUEST_ID, REQUEST_START

EXPLAINS = "explain"
"""The header with the value `True` that TorchServe adds to a request by the route of explanations."""
OLDEST_SECONDS = 86400  # an earlier start, or one in the future, comes from a wrong clock

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One request as TorchServe passes it.

    Attributes:
        index: Its place in the batch.
        values: Its values by key.
        headers: Its headers by lower-case name.
        types: Content types of its values by key, where the client sends them.
        is_http: Whether it came over HTTP rather than gRPC.
        is_explanation: Whether it came by the route of explanations.
        sent_at: Seconds since 1970 of the client's start, or of the worker's if the client does not send it.
        queued: Seconds from the client's start to the worker's; None if the client does not send it.
        request_id: The caller's `X-Request-Id`, or the `request_id` of the payload.
        payload: The fields that the client sent, once they are decoded.
    """

    index: int
    values: Mapping[str, Any]
    headers: Mapping[str, str]
    types: Mapping[str, str]
    is_http: bool
    is_explanation: bool
    sent_at: float
    queued: float | None
    request_id: str | None
    payload: Any = None


def read_row(given: tuple[int, Mapping[str, Any]], context: Context) -> Row:
    """Read the request at a number in its batch. Nothing that a client sends makes this fail."""
    index, values = given[0], dict(given[1])
    headers, is_http = _headers(context, index), _is_http(context, index)
    if not is_http:  # the start is a key of the input there
        started = values.pop(REQUEST_START, None)
        headers[REQUEST_START] = (
            bytes(started).decode(errors="replace") if isinstance(started, bytes | bytearray) else ""
        )
    now = time.time()
    sent_at = _sent_at(headers, now)
    is_explanation = headers.get(EXPLAINS) == "True"
    return Row(
        index, values, headers, _types(context, index), is_http, is_explanation,
        sent_at=sent_at or now, queued=sent_at and now - sent_at, request_id=_valid_id(headers.get("x-request-id")),
    )  # fmt: skip


def decode_row(row: Row) -> Row:
    """The row with its payload. Raises InvalidInput for another content type and for broken JSON."""
    if row.is_http:
        payload = decode_body(row.values, row.headers.get("content-type", ""), row.types)
    else:
        payload = decode_fields(row.values, row.types)
    named = payload.get("request_id") if isinstance(payload, dict) else None
    return replace(row, payload=payload, request_id=_valid_id(named) or row.request_id)


def send(answer: Response, context: Context, index: int, alone: bool) -> bytes:
    """Set status, type and headers of one answer of the batch, and return its body.

    gRPC has no place for a status, so an error answer is raised there if the request is `alone` in its batch: raising
    fails the whole batch. Other answers carry a header that ends the stream; without it, StreamPredictions would end
    the worker.
    """
    if not _is_http(context, index):
        if answer.status >= 400 and alone:
            raise Refusal(answer.body.decode(), answer.status)
        context.set_response_header(index, "ts_stream_next", "false")
    _set_head(context, index, answer)
    return answer.body


def send_piece(piece: Response, context: Context, index: int) -> None:
    """Send a piece of a streamed answer at once; `send` returns the last one. HTTP only."""
    _set_head(context, index, piece)
    ids = {index: context.request_ids[index]}
    send_intermediate_predict_response({index: piece.body}, ids, "piece", HTTPStatus.OK, context)


@contextmanager
def logged_step(name: str) -> Iterator[None]:
    """Log when a named step of the start begins, and its duration."""
    logger.info("start: %s", name)
    started = time.perf_counter()
    yield
    logger.info("start: %s took %.2f s", name, time.perf_counter() - started)


class Refusal(PredictionException):
    """An error answer over gRPC."""


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], Refusal))


# TorchServe logs exceptions with their trace and the whole request; a refusal is logged already.
logging.getLogger("ts.service").addFilter(_is_news)


def _set_head(context: Context, index: int, answer: Response) -> None:
    context.set_response_status(answer.status, HTTPStatus(answer.status).phrase, index)
    context.set_response_content_type(index, answer.content_type)
    for name, value in answer.headers.items():
        context.set_response_header(index, name, value)


def _headers(context: Context, index: int) -> dict[str, str]:
    # TorchServe puts the types of multipart fields among the headers, as dicts.
    headers = context.get_all_request_header(index)
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def _types(context: Context, index: int) -> dict[str, str]:
    headers = context.get_all_request_header(index)
    return {name: str(value.get("content-type", "")) for name, value in headers.items() if isinstance(value, Mapping)}


def _valid_id(given: Any) -> str | None:
    """Return a caller's request id; None for one that a header cannot echo."""
    return given if isinstance(given, str) and re.fullmatch(REQUEST_ID, given) else None


def _is_http(context: Context, index: int) -> bool:
    """Return whether a request came over HTTP, where it has at least the header `Content-Length`.

    Over gRPC no header arrives, except those that TorchServe adds for a sequence of requests.
    """
    own = {context.header_key_sequence_id, context.header_key_sequence_start, context.header_key_sequence_end}
    return not _headers(context, index).keys() <= {name.lower() for name in own}


def _sent_at(headers: Mapping[str, str], now: float) -> float | None:
    """Return the client's start in seconds since 1970; None if it sent none or its clock is wrong."""
    number = re.fullmatch(r"(?:t=)?(\d{9,16}(?:\.\d{1,9})?)", headers.get(REQUEST_START, "").strip())
    if number is None:
        return None
    sent = float(number[1])
    while sent > 1e11:  # milliseconds or microseconds
        sent /= 1000
    return sent if now - OLDEST_SECONDS < sent <= now else None
