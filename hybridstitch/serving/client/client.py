"""The client of the endpoints and of TorchServe's management address, over HTTP or gRPC."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.serving.client.address import Address, parse_address, parse_target
from hybridstitch.serving.client.auth import Credential
from hybridstitch.serving.client.drain import unregister_drained
from hybridstitch.serving.client.http import HttpTransport, Site
from hybridstitch.serving.client.replies import Reply, Result, ServiceError, object_of
from hybridstitch.serving.client.transport import Transport
from hybridstitch.serving.manifest import name_problems

MODEL = "hybridstitch"
MOST_AT_ONCE = 64
RESPONSE_SECONDS = 600.0
"""As long as a worker may take by the shipped model-config.yaml."""
EXPLANATION_SECONDS = 600.0
"""The default limit for an explanation: the responseTimeout of the archives as they are packed."""
LOADING_SECONDS = 1200.0
"""The default limit for calls that wait until workers have loaded their models."""
DRAIN_SECONDS = 600.0
"""The default limit for requests that a version accepted before it is unloaded: one may take the responseTimeout."""


class Client:
    """A client of one server. Every call has a limit of time: TorchServe itself has none.

    Several threads may use one client. `model` may name a version, "hybridstitch/1.0"; by default it is the one that
    `url` names, else "hybridstitch".

    Args:
        url: Address of predictions: "http://127.0.0.1:8080", or with /predictions/MODEL at its end as `serve` prints
            it. For gRPC "127.0.0.1:7070", with or without http:// or https://.
        token: The "inference" token of the server's key_file.json. None: the token of `key_file`, else of
            HYBRIDSTITCH_TOKEN in the environment, else of the file that HYBRIDSTITCH_KEY_FILE names, else none.
        timeout: Seconds for a whole call, over 0; of a stream, for each event. Connecting may take 10 s of it.
        management_url: Address of describe, models, register, unregister, scale and set_default.
        management_token: As `token`, with HYBRIDSTITCH_MANAGEMENT_TOKEN.
        transport: "http", or "grpc", which needs the extra `serve`.
        key_file: The server's key_file.json. It is read again when the server refuses a token.
        environment: Whether credentials of the environment count.

    Raises:
        InvalidInput: For arguments that cannot be sent, here and by each call.
        ServiceError: By each call, for an error answer, and for an answer that this client cannot read. Its kinds
            ServiceTimeout and ServiceUnreachable mean that there was no answer.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout: float = RESPONSE_SECONDS,
        management_url: str | None = None,
        management_token: str | None = None,
        *,
        transport: str = "http",
        key_file: str | Path | None = None,
        environment: bool = True,
    ):
        problems = [_limit_problem("timeout", timeout)]
        if transport not in ("http", "grpc"):
            problems.append(Problem("transport", "one of: http, grpc", transport))
        raise_problems([problem for problem in problems if problem])
        parse = parse_target if transport == "grpc" else parse_address
        address = parse("url", url)
        management = None if management_url is None else parse("management_url", management_url)
        self.url = address.base
        self.model = address.model or MODEL
        self.timeout = timeout
        credentials = [Credential("inference", token, key_file, environment=environment)]
        if management:
            credentials.append(Credential("management", management_token, key_file, environment=environment))
        connect = _connect_grpc if transport == "grpc" else _connect_http
        self._transport = connect(address, management, credentials, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Otherwise they end with the client."""
        self._transport.close()

    def generate(self, prompt: str, model: str | None = None, **fields: Any) -> Result:
        """Generate a picture, or several. `fields` are the other fields of the request."""
        return self._generate({"prompt": prompt, **fields}, model)

    def generate_many(
        self,
        requests: Sequence[str | Mapping[str, Any]],
        model: str | None = None,
        *,
        concurrency: int = 4,
        **common: Any,
    ) -> list[Result | Exception]:
        """Send several requests at once and return one element for each, in their order.

        Args:
            requests: Each a prompt, or a dict of its fields.
            model: As in the other calls.
            concurrency: The number of requests at a time, 1 to 64.
            common: Fields of all requests that do not have them.

        Returns:
            For each request its Result, or the exception that it ended with.
        """
        raise_problems(_range_problems(concurrency=(concurrency, 1, MOST_AT_ONCE)))
        filled = [{**common, **({"prompt": each} if isinstance(each, str) else each)} for each in requests]
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(partial(self._attempt, model=model), filled))

    def stream(self, prompt: str, model: str | None = None, **fields: Any) -> Iterator[dict[str, Any]]:
        """Generate a picture and yield its events as dicts, over HTTP only.

        The last event is {"event": "result", …}, which Result.from_document reads. The event "error" is raised as
        ServiceError. When the iterator is closed or no longer referenced, the connection closes.
        """
        payload = {"prompt": prompt, **fields, "stream": True, "response_format": "json"}
        return self._transport.stream(model or self.model, payload)

    def explain(
        self,
        prompt: str,
        model: str | None = None,
        *,
        target: Literal["mask", "region", "image"] | None = None,
        method: Literal["ablation", "integrated_gradients"] | None = None,
        region: Sequence[int] | None = None,
        steps_explained: int | None = None,
        gradient_steps: int | None = None,
        timeout: float = EXPLANATION_SECONDS,
        **fields: Any,
    ) -> dict[str, Any]:
        """Explain which words had which effect on a picture: the answer of /explanations, see docs/interface.md.

        An explanation takes as long as several pictures, so its limit is separate. The request carries the limit as
        `deadline_ms`, unless `fields` have one, so that the worker stops when nobody waits.

        Args:
            prompt: The prompt of the picture.
            model: As in the other calls.
            target: What is explained. None: the server's choice.
            method: How. None: the server's choice.
            region: Left, top, right and bottom in pixels. With target "region" the part that is explained.
            steps_explained: The number of steps that are explained, 1 to num_inference_steps.
            gradient_steps: Of integrated gradients, 1 to 256.
            timeout: Seconds for the whole call, over 0.
            fields: The other fields of a prediction.
        """
        if problem := _limit_problem("timeout", timeout):
            raise InvalidInput([problem])
        question = {
            "target": target, "method": method, "region": region,
            "steps_explained": steps_explained, "gradient_steps": gradient_steps,
        }  # fmt: skip
        given = {name: value for name, value in question.items() if value is not None}
        payload = {"prompt": prompt, "deadline_ms": max(1, int(1000 * timeout)), **fields, **given}
        return object_of(self._transport.explain(model or self.model, payload, timeout).json())

    def predict(self, payload: Any, model: str | None = None) -> Reply:
        """Send a request unchanged and return the answer unchanged."""
        return self._transport.predict(model or self.model, payload)

    def health(self) -> bool:
        """Whether the server answers. It may answer before a model is ready."""
        try:
            return self._transport.status() == "Healthy"
        except ServiceError:
            return False

    def describe(self, model: str | None = None, *, customized: bool = True) -> list[dict[str, Any]]:
        """TorchServe's description of a model: of the default version, of the one named, or of all for "NAME/all".

        Args:
            model: As in the other calls.
            customized: Whether to include the endpoint's own description, which a worker sends.
        """
        return self._transport.describe(model or self.model, customized)

    def models(self) -> list[str]:
        """The names of the registered models."""
        return [model["modelName"] for model in self._transport.models()]

    def register(
        self,
        archive: str,
        model: str,
        *,
        batch_size: int | None = None,
        max_batch_delay_ms: int | None = None,
        initial_workers: int | None = None,
        timeout: float = LOADING_SECONDS,
    ) -> None:
        """Load an archive of the server's model store and wait until its workers are ready.

        After a failure nothing stays registered.

        Args:
            archive: File name in the store.
            model: The name that the model gets.
            batch_size: At least 1. None: the archive's own.
            max_batch_delay_ms: At least 1. None: the archive's own.
            initial_workers: At least 1; it replaces the archive's `minWorkers`. None: the archive's own, or 1.
            timeout: Seconds until the workers are ready.
        """
        fields = {"batch_size": batch_size, "max_batch_delay": max_batch_delay_ms, "initial_workers": initial_workers}
        given = {name: value for name, value in fields.items() if value is not None}
        wrong = _range_problems(**{name: (value, 1, None) for name, value in given.items()})
        raise_problems([*name_problems("model", model), *wrong])
        before = self._versions(model)
        try:
            request = {"url": archive, "model_name": model, "initial_workers": 1, **given}
            self._transport.register(request, timeout)
            if initial_workers is not None:
                for version in self._versions(model) - before:
                    self._ensure_workers(_named(model, version), initial_workers, timeout)
        except ServiceError:
            # TorchServe keeps a model whose start failed, and would refuse the next try for it.
            with suppress(ServiceError):
                for version in self._versions(model) - before:
                    self._transport.unregister(_named(model, version))
            raise

    def unregister(self, model: str, version: str | None = None, *, timeout: float = DRAIN_SECONDS) -> None:
        """Unload one version of a model. The default version must be the last.

        The call waits until the version has answered every request that it accepted, also those that arrive
        meanwhile. So make another version the default first (`set_default`), and send this one no requests by number.

        Args:
            model: The model's name.
            version: The version to unload. None: the default one.
            timeout: Seconds to wait. 0: unload at once and drop the waiting requests, without an answer.

        Raises:
            ServiceError: Of kind "still_at_work" when the timeout passes. The version then stays registered.
        """
        if timeout == 0:
            self._transport.unregister(_named(model, version))
            return
        if problem := _limit_problem("timeout", timeout):
            raise InvalidInput([problem])
        unregister_drained(self._transport, model, version, timeout)

    def scale(self, model: str, workers: int, version: str | None = None, *, timeout: float = LOADING_SECONDS) -> None:
        """Set the number of workers of a version, and wait until they are ready. 0 works over HTTP only."""
        raise_problems(_range_problems(workers=(workers, 0, None)))
        self._transport.scale(_named(model, version), workers, timeout)

    def set_default(self, model: str, version: str) -> None:
        """Make this version the one that answers requests without a version."""
        self._transport.set_default(_named(model, version))

    def _generate(self, fields: Mapping[str, Any], model: str | None) -> Result:
        reply = self.predict({**fields, "response_format": "json"}, model)
        return Result.from_document(reply.json(), reply.headers)

    def _attempt(self, fields: Mapping[str, Any], model: str | None) -> Result | Exception:
        try:
            return self._generate(fields, model)
        except Exception as error:
            return error

    def _ensure_workers(self, model: str, workers: int, timeout: float) -> None:
        """Scale to `workers`: TorchServe prefers the minWorkers of the archive to the number in a registration."""
        if self._transport.describe(model, False)[0]["minWorkers"] != workers:
            self._transport.scale(model, workers, timeout)

    def _versions(self, model: str) -> set[str]:
        try:
            return {each["modelVersion"] for each in self.describe(f"{model}/all", customized=False)}
        except ServiceError as error:
            if error.status == 404:
                return set()
            raise


def _connect_http(
    address: Address, management: Address | None, credentials: list[Credential], timeout: float
) -> Transport:
    site = Site(management, credentials[1], timeout) if management else None
    return HttpTransport(Site(address, credentials[0], timeout), site)


def _connect_grpc(
    address: Address, management: Address | None, credentials: list[Credential], timeout: float
) -> Transport:
    try:
        from hybridstitch.serving.client.grpc import GrpcTransport, Service
        from hybridstitch.serving.client.protos import INFERENCE, MANAGEMENT

        inference = Service(address, INFERENCE, credentials[0], timeout)
    except ImportError as error:
        message = f"transport='grpc' needs the extra `serve`, pip install 'hybridstitch[serve]': {error}"
        raise ImportError(message) from error
    return GrpcTransport(inference, Service(management, MANAGEMENT, credentials[1], timeout) if management else None)


def _named(model: str, version: str | None) -> str:
    return f"{model}/{version}" if version else model


def _limit_problem(name: str, seconds: float) -> Problem | None:
    is_fine = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < math.inf
    return None if is_fine else Problem(name, "seconds, over 0 and finite", seconds)


def _range_problems(**values: tuple[Any, int, int | None]) -> list[Problem]:
    """The problems of whole numbers, each given as (value, lowest, highest or None)."""
    return [
        Problem(name, f"an integer, at least {low}" + (f", at most {high}" if high else ""), value)
        for name, (value, low, high) in values.items()
        if type(value) is not int or value < low or (high is not None and value > high)
    ]
