"""A client for the endpoints and for TorchServe's management address, over HTTP or gRPC."""

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
EXPLANATION_SECONDS = 600.0
"""The default limit for an explanation: the responseTimeout of the archives as they are packed."""
LOADING_SECONDS = 1200.0
"""The default limit for calls that wait until workers have loaded their models."""
DRAIN_SECONDS = 600.0
"""The default limit for requests that a version accepted before it is unloaded: one may take the responseTimeout."""


class Client:
    """Talks to one server. Every wait ends: TorchServe itself never gives up.

    A client may be used by several threads. `model` may name a version, "hybridstitch/1.0"; by default it is the one
    that `url` names, else "hybridstitch".

    Args:
        url: where predictions are served, "http://127.0.0.1:8080" or what `serve` prints, with
            /predictions/MODEL at its end; for gRPC "127.0.0.1:7070", or with http:// or https:// before it.
        token: the "inference" token of the server's key_file.json. Without it `key_file`, then HYBRIDSTITCH_TOKEN of
            the environment, then the file that HYBRIDSTITCH_KEY_FILE names; without all these none is sent.
        timeout: seconds for a whole call, over 0; of a stream, for each event. Connecting takes 10 s of it at most.
        management_url: the same for describe, models, register, unregister, scale and set_default.
        management_token: as `token`, with HYBRIDSTITCH_MANAGEMENT_TOKEN.
        transport: "http", or "grpc", which needs the extra `serve`.
        key_file: the server's key_file.json, which is read again when the server refuses a token.
        environment: False: no credentials of the environment are used.

    Raises:
        InvalidInput: for arguments that cannot be sent, here and by each call. Calls also raise ServiceError for an
            error answer and for one that is no answer of such a server, ServiceTimeout and ServiceUnreachable, kinds
            of it, for none.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout: float = 60,
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
        """Give the connections up. Without it they end with the client."""
        self._transport.close()

    def generate(self, prompt: str, model: str | None = None, **fields: Any) -> Result:
        """Draw what `prompt` says; `fields` are those of the request."""
        return self._draw({"prompt": prompt, **fields}, model)

    def generate_many(
        self,
        requests: Sequence[str | Mapping[str, Any]],
        model: str | None = None,
        *,
        concurrency: int = 4,
        **common: Any,
    ) -> list[Result | Exception]:
        """Draw several requests, each a prompt or a dict of its fields, `concurrency` (1 to 64) at a time.

        `common` are fields for all that do not have them themselves. Nothing is lost: in the order of `requests`,
        each element is the Result or the exception that this request ended with.
        """
        raise_problems(_range_problems(concurrency=(concurrency, 1, MOST_AT_ONCE)))
        filled = [{**common, **({"prompt": each} if isinstance(each, str) else each)} for each in requests]
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(partial(self._attempt, model=model), filled))

    def stream(self, prompt: str, model: str | None = None, **fields: Any) -> Iterator[dict[str, Any]]:
        """Draw, and hear of it on the way: events as dicts, over HTTP only.

        The last is {"event": "result", …}, which Result.from_document reads; the event "error" is raised as
        ServiceError. Leaving the iterator (`break`, then nothing holds it, or its `close()`) closes the connection.
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
        """Which words made the picture what it is: the answer of /explanations/`model`, see docs/interface.md.

        An explanation lasts as long as several pictures, so it has a limit of its own. The request says it to the
        server as `deadline_ms`, unless `fields` have one: the worker gives up when nobody waits any more.

        Args:
            prompt: what the picture shows.
            model: as of the other calls.
            target, method: None: the server's choice.
            region: left, top, right, bottom in pixels; with target "region" the part in question.
            steps_explained: 1 to num_inference_steps.
            gradient_steps: of integrated gradients, 1 to 256.
            timeout: seconds for the whole call, over 0.
            fields: the other fields of a prediction.
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
        """Send a request as it is and return the answer as it comes."""
        return self._transport.predict(model or self.model, payload)

    def health(self) -> bool:
        """Whether the server answers. It may do so before a model is ready to draw."""
        try:
            return self._transport.status() == "Healthy"
        except ServiceError:
            return False

    def describe(self, model: str | None = None, *, customized: bool = True) -> list[dict[str, Any]]:
        """TorchServe's description of the default version, the one named, or all of them for "NAME/all".

        With `customized`, also what the endpoint says of itself.
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
        """Load an archive of the server's model store under a name and wait until its workers are ready to draw.

        A registration that fails leaves nothing behind.

        Args:
            archive: its file name in the store.
            model: the name it gets.
            batch_size: at least 1; None: the archive's own.
            max_batch_delay_ms: at least 1; None: the archive's own.
            initial_workers: at least 1, even if the archive's `minWorkers` says another number; None: the archive's
                own, 1 if it has none.
            timeout: seconds until the workers are ready.
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
        """Unload a model: one version of it, or the default one, which must be the last.

        It waits until the version has answered every request that it accepted. Requests that arrive meanwhile are
        waited for, too: make another version the default first (`set_default`), and send none to this one by number.

        Args:
            model: the model's name.
            version: the version to unload; None: the default one.
            timeout: seconds to wait. 0: unload at once and drop what is waiting, without an answer.

        Raises:
            ServiceError: of kind "still_at_work" when the timeout passes; the version then stays registered.
        """
        if timeout == 0:
            self._transport.unregister(_named(model, version))
            return
        if problem := _limit_problem("timeout", timeout):
            raise InvalidInput([problem])
        unregister_drained(self._transport, model, version, timeout)

    def scale(self, model: str, workers: int, version: str | None = None, *, timeout: float = LOADING_SECONDS) -> None:
        """Give a version, or the default one, so many workers, and wait until they are ready. 0 only over HTTP."""
        raise_problems(_range_problems(workers=(workers, 0, None)))
        self._transport.scale(_named(model, version), workers, timeout)

    def set_default(self, model: str, version: str) -> None:
        """Let requests that name no version have this one."""
        self._transport.set_default(_named(model, version))

    def _draw(self, fields: Mapping[str, Any], model: str | None) -> Result:
        reply = self.predict({**fields, "response_format": "json"}, model)
        return Result.from_document(reply.json(), reply.headers)

    def _attempt(self, fields: Mapping[str, Any], model: str | None) -> Result | Exception:
        try:
            return self._draw(fields, model)
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
    """What is wrong with whole numbers given as (value, lowest, highest or None)."""
    return [
        Problem(name, f"an integer, at least {low}" + (f", at most {high}" if high else ""), value)
        for name, (value, low, high) in values.items()
        if type(value) is not int or value < low or (high is not None and value > high)
    ]
