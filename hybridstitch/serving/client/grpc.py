"""The transport over gRPC. Importing this needs grpcio and grpcio-tools: the extra `serve`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hybridstitch.base.extras import extra
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.client.address import Address
from hybridstitch.serving.client.auth import Credential, without
from hybridstitch.serving.client.protos import methods
from hybridstitch.serving.client.replies import (
    INVALID_KEY,
    Reply,
    ServiceError,
    ServiceTimeout,
    ServiceUnreachable,
    decode,
    error_from,
    models_of,
    text_of,
    versions_of,
)
from hybridstitch.serving.client.transport import LOOPBACK, MOST_MODELS, encode, no_management, request_start
from hybridstitch.wire.names import REQUEST_START

with extra("serve"):
    import grpc

MESSAGE_BYTES = 128 * 2**20
"""The largest message in either direction. gRPC's default, 4 MiB, is less than one large picture in base64."""

DETAILS_BYTES = 2**20
"""The longest text of an error. gRPC's default, 8 KiB, is less than fifty problems of a request."""

RECONNECT_MS = 2000
"""The longest pause between two tries to connect. gRPC's default, 2 minutes, exceeds the restart of a server."""

STATUS_OF_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
    grpc.StatusCode.CANCELLED: 413,
    grpc.StatusCode.FAILED_PRECONDITION: 422,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""HTTP's statuses. TorchServe ends a request over its max_request_size with CANCELLED."""

SILENT = {
    "RegisterModel": (409, "ConflictStatusException", "this version of the model is registered already"),
    "UnregisterModel": (403, "InvalidModelVersionException", "the default version goes last"),
}
"""What TorchServe refuses with code UNKNOWN and no text, and its error over HTTP."""

JAVA_CLASS = re.compile(r"\n(?:\w+\.)+(\w+)$")
OUR_ERROR = re.compile(rb'\s*{\s*"error"\s*:')


class Service:
    """One gRPC service of a server with its credential. `timeout` is in seconds, for a whole call."""

    def __init__(self, address: Address, service: str, credential: Credential, timeout: float):
        host = f"[{address.host}]" if ":" in address.host else address.host
        self._address, is_secure = f"{host}:{address.port}", address.scheme == "https"
        self._credential = credential
        self._timeout = timeout
        options = [
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_metadata_size", DETAILS_BYTES),
            ("grpc.absolute_max_metadata_size", DETAILS_BYTES),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
            ("grpc.enable_http_proxy", int(not _is_local(self._address))),
        ]
        if is_secure:
            self._channel = grpc.secure_channel(self._address, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(self._address, options)
        self._methods = methods(service)

    def call(self, method: str, *, timeout: float | None = None, **fields: Any) -> Any:
        """The answer to one call. Fields that are None are not sent."""
        seconds = timeout or self._timeout
        return self._credential.use(lambda token: self._send(method, fields, token, seconds))

    def close(self) -> None:
        self._channel.close()

    def _send(self, method: str, fields: dict[str, Any], token: str | None, seconds: float) -> Any:
        kinds = self._methods[method]
        send = self._channel.unary_unary(
            kinds.path,
            request_serializer=kinds.request.SerializeToString,
            response_deserializer=kinds.response.FromString,
        )
        metadata = [("authorization", f"Bearer {token}")] if token else []
        try:
            return send(kinds.request(**fields), timeout=seconds, metadata=metadata)
        except (TypeError, ValueError) as error:
            raise InvalidInput([Problem(method, "fields that gRPC can hold", str(error))]) from None
        except grpc.RpcError as error:
            failed = self._error_of(
                error.code(), without(token, (error.details() or "").encode()).decode(), method, seconds
            )
        raise failed from None

    def _error_of(self, code: grpc.StatusCode, details: str, method: str, seconds: float) -> ServiceError:
        words, named = JAVA_CLASS.sub("", details), JAVA_CLASS.search(details)
        if OUR_ERROR.match(words.encode()):
            return error_from(decode(words.encode()))
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and not named:
            return ServiceTimeout(self._address, seconds)
        if code is grpc.StatusCode.UNAVAILABLE and not named:
            return ServiceUnreachable(self._address, words)
        if code is grpc.StatusCode.PERMISSION_DENIED and words.startswith("Token"):
            return error_from({"type": INVALID_KEY, "message": words})
        if code is grpc.StatusCode.UNKNOWN and not details and method in SILENT:
            return ServiceError(*SILENT[method])
        found = error_from({"type": named[1] if named else "server_error", "message": words or code.name})
        return ServiceError(STATUS_OF_CODE.get(code, found.status), found.kind, found.message)


class GrpcTransport:
    """TorchServe's InferenceAPIsService, and its ManagementAPIsService if it has an address."""

    closes = False

    def __init__(self, inference: Service, management: Service | None):
        self._inference = inference
        self._management = management

    def predict(self, model: str, payload: Any, timeout: float | None = None) -> Reply:
        name, version = _split(model)
        data = {"data": encode(payload), REQUEST_START: request_start().encode()}
        fields = {"model_name": name, "model_version": version, "input": data}
        answer = self._inference.call("Predictions", timeout=timeout, **fields)
        # In a batch the worker cannot raise the error of one request: the others would fail with it.
        if OUR_ERROR.match(answer.prediction):
            raise error_from(decode(answer.prediction))
        return Reply(answer.prediction)

    def explain(self, model: str, payload: Any, timeout: float) -> Reply:
        return self.predict(model, {"explain": payload}, timeout)

    def stream(self, model: str, payload: Any) -> Iterator[dict[str, Any]]:
        # A request that streams would end TorchServe's own thread of the worker (unary) or the worker (stream).
        raise InvalidInput([Problem("transport", "http: nothing is streamed over gRPC", "grpc")])

    def status(self) -> str:
        return text_of(decode(self._inference.call("Ping").health), "status")

    def describe(self, model: str, customized: bool, timeout: float | None = None) -> list[dict[str, Any]]:
        name, version = _split(model)
        fields = {"model_name": name, "model_version": version, "customized": customized}
        return versions_of(decode(self._manage("DescribeModel", **fields, timeout=timeout)))

    def models(self) -> list[dict[str, Any]]:
        return models_of(decode(self._manage("ListModels", limit=MOST_MODELS)))

    def register(self, fields: dict[str, Any], timeout: float) -> None:
        self._manage("RegisterModel", **fields, synchronous=True, timeout=timeout)

    def unregister(self, model: str) -> None:
        name, version = _split(model)
        self._manage("UnregisterModel", model_name=name, model_version=version)

    def scale(self, model: str, workers: int, timeout: float) -> None:
        if workers == 0:
            # Protobuf sends zero as an absent field, and TorchServe takes an absent field as 1.
            raise InvalidInput([Problem("workers", "at least 1 over gRPC; 0 only over http", workers)])
        name, version = _split(model)
        numbers = {"min_worker": workers, "max_worker": workers}
        self._manage(
            "ScaleWorker", model_name=name, model_version=version, **numbers, synchronous=True, timeout=timeout
        )

    def set_default(self, model: str) -> None:
        name, version = _split(model)
        self._manage("SetDefault", model_name=name, model_version=version)

    def close(self) -> None:
        self._inference.close()
        if self._management:
            self._management.close()

    def _manage(self, method: str, **fields: Any) -> Any:
        if self._management is None:
            raise no_management()
        return self._management.call(method, **fields).msg


def _split(model: str) -> tuple[str, str | None]:
    name, _, version = model.partition("/")
    return name, version or None


def _is_local(address: str) -> bool:
    return address.rpartition(":")[0].strip("[]") in LOOPBACK
