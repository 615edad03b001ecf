"""What both handlers share: the way of a batch from TorchServe's rows to its answers, and the description."""

from __future__ import annotations

from abc import abstractmethod
from importlib.metadata import version
from typing import Any

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

import hybridstitch
from hybridstitch.catalogue import Catalogue
from hybridstitch.pair import SizeLimits, describe_pair
from hybridstitch.serving.request import GenerationRequest, field_checks, parse_request
from hybridstitch.serving.response import Answer, Rendering, attempt, encode
from hybridstitch.serving.torchserve import (
    Row,
    Settings,
    decode_payload,
    logged_step,
    read_rows,
    read_settings,
    send,
)


class Endpoint(BaseHandler):
    """Parse, draw, encode. Every item of a batch is a row, a request, a rendering and then an answer; one that
    goes wrong becomes its answer at once, and its neighbours go on.

    A handler says how to `load` its models, which must set `size_limits`, and how to `draw` a request.
    """

    settings: Settings
    size_limits: SizeLimits
    catalogue: Catalogue | None = None
    """The recipes and strategies that a request may name; None on an endpoint without recipes."""

    @abstractmethod
    def load(self) -> None:
        """Load the models as `self.settings` say and set `self.size_limits`."""

    @abstractmethod
    def draw(self, request: GenerationRequest) -> Rendering:
        """Draw one picture."""

    def initialize(self, context: Context) -> None:
        """Load everything; a wrong setting, a wrong default or models that do not fit end the start by name."""
        self.context = context
        self.settings = read_settings(context)
        with logged_step(f"load the models onto {self.settings.device}"):
            self.load()
        with logged_step("check the defaults"):
            self.parse({"prompt": "any"})
        self.initialized = True

    def preprocess(self, rows: list[dict[str, Any]]) -> list[GenerationRequest | Answer]:
        """TorchServe's rows to requests."""
        return [attempt(self.read, row) for row in read_rows(rows, self.context)]

    def inference(self, requests: list[GenerationRequest | Answer]) -> list[Rendering | Answer]:
        """Requests to pictures."""
        return [attempt(self.draw, request) for request in requests]

    def postprocess(self, renderings: list[Rendering | Answer]) -> list[bytes]:
        """Pictures to what goes over the wire."""
        answers = [attempt(encode, rendering) for rendering in renderings]
        return [send(answer, self.context, index, alone=len(answers) == 1) for index, answer in enumerate(answers)]

    def read(self, row: Row) -> GenerationRequest:
        """The request of one row. Raises InvalidInput that names everything wrong with it."""
        return self.parse(decode_payload(row))

    def parse(self, payload: Any) -> GenerationRequest:
        """The request in a decoded payload, with this endpoint's defaults."""
        return parse_request(payload, self.settings.defaults, self.size_limits, self.catalogue)

    def describe_handle(self) -> dict[str, Any]:
        """What this endpoint is and takes: the answer to `GET /models/<model>?customized=true`."""
        packages = ("torch", "diffusers", "transformers", "torchserve")
        no_value = object()  # fails every check, so that each says what it expects
        return {
            "versions": {"hybridstitch": hybridstitch.__version__} | {name: version(name) for name in packages},
            "device": str(self.settings.device),
            "dtype": str(self.settings.dtype).removeprefix("torch."),
            "fields": {name: check(no_value) for name, check in field_checks(self.size_limits).items()},
            "limits": vars(self.size_limits),
            "defaults": self.parse({"prompt": "any", "seed": 0}).to_dict(),
            "pair": describe_pair(self.settings.folder),
            **(self.catalogue.describe() if self.catalogue else {}),
        }
