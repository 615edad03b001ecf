"""A client for the endpoints and for TorchServe's management address, over HTTP."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from PIL import Image


class ServiceError(RuntimeError):
    """The server refused or failed. `status` is HTTP's, `kind` the error's type.

    `problems` lists every wrong field as {"field", "expected", "got"}; empty if the request was not the cause.
    """

    def __init__(self, status: int, kind: str, message: str, problems: list[dict[str, Any]]):
        self.status = status
        self.kind = kind
        self.problems = problems
        details = "".join(f"\n  {each['field']}: expected {each['expected']}, got {each['got']!r}" for each in problems)
        super().__init__(f"{status} {kind}: {message}{details}")


@dataclass(frozen=True)
class Result:
    """One picture with the report of how it was made."""

    image_bytes: bytes
    report: dict[str, Any]
    seed: int
    headers: Mapping[str, str]

    @property
    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.image_bytes))


class Client:
    """Talks to one server. Every call ends after `timeout` seconds: TorchServe itself never gives up waiting.

    url: where predictions are served, for instance "http://127.0.0.1:8080".
    token, management_token: what key_file.json of the server says; None for a server without tokens.
    management_url: only for register, unregister and describe.
    Calls raise ServiceError for an error answer, and requests' exceptions if there is no answer at all.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout: float = 60,
        management_url: str | None = None,
        management_token: str | None = None,
    ):
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._token = token
        self._management_url = management_url
        self._management_token = management_token
        self._session = requests.Session()
        # A proxy of the environment cannot reach a server on this machine.
        self._session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")

    def generate(self, prompt: str, model: str = "hybridstitch", **fields: Any) -> Result:
        """Draw one picture. `model` may name a version ("hybridstitch/1.0"); `fields` are those of the request."""
        response = self.predict({"prompt": prompt, **fields, "response_format": "json"}, model)
        document = response.json()
        picture = document["data"][0]
        return Result(base64.b64decode(picture["b64_json"]), document["report"], picture["seed"], response.headers)

    def predict(self, payload: Any, model: str = "hybridstitch") -> requests.Response:
        """Send a request as it is and return the answer as it comes."""
        return self._call("POST", f"{self.url}/predictions/{model}", self._token, json=payload)

    def health(self) -> bool:
        """Whether the server answers. It may do so before a model is ready to draw."""
        try:
            return self._call("GET", f"{self.url}/ping", self._token).json()["status"] == "Healthy"
        except (requests.RequestException, ServiceError):
            return False

    def describe(self, model: str = "hybridstitch", *, customized: bool = True) -> list[dict[str, Any]]:
        """TorchServe's description of each version; with `customized`, what the endpoint says of itself, too."""
        query = {"customized": "true"} if customized else None
        return self._manage("GET", f"/models/{model}", params=query).json()

    def models(self) -> list[str]:
        """The names of the registered models."""
        listed = self._manage("GET", "/models", params={"limit": 1000}).json()["models"]
        return [model["modelName"] for model in listed]

    def register(self, archive: str, model: str, *, timeout: float = 1200) -> None:
        """Load an archive of the server's model store under a name and wait until it is ready to draw.

        A registration that fails leaves nothing behind.
        """
        before = self._versions(model)
        query = {"url": archive, "model_name": model, "initial_workers": 1, "synchronous": "true"}
        try:
            self._manage("POST", "/models", params=query, timeout=timeout)
        except (ServiceError, requests.RequestException):
            # TorchServe keeps a model whose start failed, and would refuse the next try for it.
            for version in self._versions(model) - before:
                self.unregister(model, version)
            raise

    def unregister(self, model: str, version: str | None = None) -> None:
        """Unload a model: one version of it, or the default one."""
        self._manage("DELETE", f"/models/{model}" + (f"/{version}" if version else ""))

    def scale(self, model: str, workers: int, version: str | None = None) -> None:
        """Give a model this many workers, and wait until they are ready."""
        path = f"/models/{model}" + (f"/{version}" if version else "")
        query = {"min_worker": workers, "max_worker": workers, "synchronous": "true"}
        self._manage("PUT", path, params=query)

    def set_default(self, model: str, version: str) -> None:
        """Let requests that name no version get this one."""
        self._manage("PUT", f"/models/{model}/{version}/set-default")

    def _versions(self, model: str) -> set[str]:
        try:
            return {each["modelVersion"] for each in self.describe(f"{model}/all", customized=False)}
        except ServiceError as error:
            if error.status == 404:
                return set()
            raise

    def _manage(self, method: str, path: str, **options: Any) -> requests.Response:
        if self._management_url is None:
            raise ValueError("management_url: expected the server's management address, got None")
        return self._call(method, self._management_url.rstrip("/") + path, self._management_token, **options)

    def _call(self, method: str, url: str, token: str | None, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        response = self._session.request(method, url, headers=headers, **{"timeout": self.timeout, **options})
        if not response.ok:
            raise _error_of(response)
        return response


def _error_of(response: requests.Response) -> ServiceError:
    """The error in an answer: ours has the form of the interface, TorchServe's own has `type` and `message`."""
    try:
        document = response.json()
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    error = document.get("error", document)
    message = error.get("message") or response.text[:500] or response.reason
    return ServiceError(response.status_code, error.get("type", "server_error"), message, error.get("problems", []))
