"""The adapter to TorchServe: its rows to ours, our answers to its bodies. The only file of the package with `ts`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ts.context import Context
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.metrics.metric_cache_errors import MetricsCacheKeyError
from ts.metrics.metric_type_enum import MetricTypes
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

from hybridstitch.serving.config import response_timeout
from hybridstitch.serving.worker.metrics import COUNTERS, Metrics
from hybridstitch.serving.worker.response_limit import response_limit
from hybridstitch.serving.worker.row import Row
from hybridstitch.serving.worker.service import Service, Setup
from hybridstitch.wire.documents import Response
from hybridstitch.wire.names import REQUEST_START

EXPLAINS = "explain"
"""The header with the value `True` that TorchServe adds to a request by the route of explanations."""
PATH = "url_path"
"""The header that TorchServe adds with what follows `/predictions/<model>/<version>/`."""

logger = logging.getLogger(__name__)


class TorchServeHandler(BaseHandler):
    """What TorchServe calls. A handler's file has one subclass, which names its service."""

    service_type: type[Service]

    def initialize(self, context: Context) -> None:
        """Load everything and generate one picture: READY means that all models work.

        Raises:
            InvalidInput: A setting or a default is wrong, or the models do not fit together.
            FloatingPointError: The output of a model is not finite.
        """
        self.context = context
        properties, config = context.system_properties, context.model_yaml_config or {}
        self.service = self.service_type()
        setup = Setup(
            Path(properties["model_dir"]),
            config,
            properties.get("gpu_id"),
            response_timeout(config),
            "torchserve",
            context.model_name,
            _version(context),
            max_response_bytes=response_limit(os.getppid(), os.environ),
        )
        self.service.start(setup)
        self.initialized = True

    def preprocess(self, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Read TorchServe's rows."""
        return [read_row(values, self.context, index) for index, values in enumerate(rows)]

    def inference(self, rows: list[Row]) -> list[Response]:
        """Return the answers, in the order of the rows."""
        return self.service.answer(rows, Metrics(_Counter(self.context)))

    def postprocess(self, answers: list[Response]) -> list[bytes]:
        """Turn answers into the bodies that TorchServe sends."""
        return [send(answer, self.context, index, alone=len(answers) == 1) for index, answer in enumerate(answers)]

    def describe_handle(self) -> dict[str, Any]:
        """Describe this endpoint and its requests: the answer to `GET /models/<model>?customized=true`."""
        return self.service.describe()

    def _is_explain(self) -> bool:
        # TorchServe decides for a whole batch by its first request; here each row decides for itself.
        return False


def read_row(given: Mapping[str, Any], context: Context, index: int) -> Row:
    """Read the request at a number in its batch. Nothing that a client sends makes this fail."""
    values, headers, is_http = dict(given), _headers(context, index), _is_http(context, index)
    if not is_http:  # the start is a key of the input there
        started = values.pop(REQUEST_START, None)
        headers[REQUEST_START] = (
            bytes(started).decode(errors="replace") if isinstance(started, bytes | bytearray) else ""
        )
    return Row(
        values,
        headers,
        partial(send_piece, context=context, index=index),
        _types(context, index),
        headers.get(PATH, "").strip("/"),
        is_http,
        headers.get(EXPLAINS) == "True",
        f"TorchServe's {context.get_request_id(index)}",
    )


def send(answer: Response, context: Context, index: int, alone: bool) -> bytes:
    """Set status, type and headers of one answer of the batch, and return its body.

    gRPC has no place for a status, so an error answer is raised there if the request is `alone` in its batch: raising
    fails the whole batch. In a workflow its body is passed on, because TorchServe would drop the reason.

    Other answers carry a header that ends the stream; without it, StreamPredictions would end the worker.
    """
    if not _is_http(context, index):
        if answer.status >= 400 and alone and not _is_in_workflow(context):
            raise Refusal(answer.body.decode(), answer.status)
        context.set_response_header(index, "ts_stream_next", "false")
    _set_head(context, index, answer)
    return answer.body


def send_piece(piece: Response, context: Context, index: int) -> None:
    """Send a piece of a streamed answer at once; `send` returns the last one. HTTP only."""
    _set_head(context, index, piece)
    ids = {index: context.request_ids[index]}
    send_intermediate_predict_response({index: piece.body}, ids, "piece", HTTPStatus.OK, context)


class Refusal(PredictionException):
    """An error answer over gRPC."""


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], Refusal))


# TorchServe logs exceptions with their trace and the whole request; a refusal is logged already.
logging.getLogger("ts.service").addFilter(_is_news)


class _Counter:
    """Counts into the metrics of a batch. With another metrics file it counts nothing and logs one warning."""

    _warned = False

    def __init__(self, context: Context):
        self._context = context
        self._model = (context.model_name, _version(context))

    def add(self, name: str, value: float, labels: Sequence[str]) -> None:
        kind = MetricTypes.COUNTER if name in COUNTERS else MetricTypes.HISTOGRAM
        try:
            self._context.metrics.get_metric(name, kind).add_or_update(value, [*self._model, *labels])
        except (MetricsCacheKeyError, ValueError):  # not declared, or with other labels
            if not _Counter._warned:
                logger.warning("%s is not in the server's metrics_config as handler/metrics.yaml has it", name)
                _Counter._warned = True


def _version(context: Context) -> str:
    model = context.manifest.get("model", {}) if context.manifest else {}
    return str(model.get("modelVersion", ""))


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


def _is_http(context: Context, index: int) -> bool:
    """Return whether a request came over HTTP, where it has at least the header `Content-Length`.

    Over gRPC no header arrives, except those that TorchServe adds for a sequence of requests. A node of a workflow has
    the headers of the workflow's request, but as over gRPC no status, no header and no stream of it reaches a client.
    """
    if _is_in_workflow(context):
        return False
    own = {context.header_key_sequence_id, context.header_key_sequence_start, context.header_key_sequence_end}
    return not _headers(context, index).keys() <= {name.lower() for name in own}


def _is_in_workflow(context: Context) -> bool:
    """Return whether the model is a node of a workflow, which TorchServe names `WORKFLOW__NODE`."""
    packed = context.manifest.get("model", {}).get("modelName") if context.manifest else None
    return "__" in (context.model_name or "") and context.model_name != packed
