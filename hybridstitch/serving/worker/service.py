"""What all endpoints share: the path of a batch from rows to answers, and the description. No server is known here."""

from __future__ import annotations

import logging
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hybridstitch._version import __version__
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.generation import Generation
from hybridstitch.model.compile import compile_blocks, graph_count
from hybridstitch.model.dtype import dtype_name
from hybridstitch.model.lora import Adapters
from hybridstitch.model.pair import describe_pair
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.pipeline import StepWatcher
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.serving.capacity import Capacity, plan_worker
from hybridstitch.serving.section import SECTION
from hybridstitch.serving.settings import (
    Settings,
    check_defaults,
    check_packed_loras,
    quality_table,
    read_settings,
    under,
)
from hybridstitch.serving.worker.batch import Job, Preview, Progress, groups
from hybridstitch.serving.worker.exchange import Exchange, open_exchange
from hybridstitch.serving.worker.explain import Explainer, encode_explanation
from hybridstitch.serving.worker.limit import OutOfTime, TimeLimit
from hybridstitch.serving.worker.metrics import Metrics
from hybridstitch.serving.worker.row import Row
from hybridstitch.serving.worker.warm_up import warm_up, warm_up_graphs
from hybridstitch.wire.dialects.choice import Dialects
from hybridstitch.wire.dialects.dialect import Reading, Result
from hybridstitch.wire.dialects.kserve_v2 import KServeV2
from hybridstitch.wire.dialects.openai import AUTO, OpenAIImages
from hybridstitch.wire.documents import Rendering, Response
from hybridstitch.wire.failures import Failure, attempt, failure_of
from hybridstitch.wire.fields import request_schema
from hybridstitch.wire.names import IN_BAND, PROCESS, WORKER_HEADER
from hybridstitch.wire.question import Question, explanation_in, explanation_schema, parse_explanation, question_fields
from hybridstitch.wire.request import GenerationRequest, parse_request

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a server gives a worker for its start.

    Attributes:
        folder: The unpacked archive, with the models in `pair/`.
        config: The content of its model-config.yaml.
        gpu: The number of the CUDA device; None for the CPU.
        response_timeout: The seconds within which the server expects the answers to a batch.
        server: The package of the server. The description has its version.
        model, version: The names of the endpoint there.
        max_response_bytes: The longest answer that the server takes; None if it has no limit.
    """

    folder: Path
    config: Mapping[str, Any]
    gpu: int | None
    response_timeout: float
    server: str
    model: str
    version: str
    max_response_bytes: int | None = None


class Service(ABC):
    """Parse, generate, encode. A row of a batch has jobs, and their answers make the row's answer.

    A job that fails has its answer at once, and its neighbours continue. Jobs that can share a forward are generated
    as one tensor. An endpoint implements `load` and `generate`.
    """

    settings: Settings
    pipeline: Any
    size_limits: SizeLimits
    adapters: Adapters
    stitches = True
    """Whether the endpoint has a small model."""
    catalogue: Catalogue | None = None
    """The recipes and strategies that a request may name; None on an endpoint without recipes."""
    preview: Preview | None = None
    """Turns the latents of a step into pictures; endpoints with a catalogue have it."""
    explainer: Explainer | None = None
    """Generates a picture and scores the words of its prompt; None on an endpoint without explanations."""

    @abstractmethod
    def load(self) -> None:
        """Load the models by `self.settings`; set `self.pipeline`, `self.size_limits` and `self.adapters`."""

    @abstractmethod
    def generate(self, requests: Sequence[GenerationRequest], progress: StepWatcher) -> list[Rendering]:
        """Generate the pictures of requests with one `batch_key`; `progress` is called after every step."""

    def start(self, setup: Setup) -> None:
        """Load everything and generate one picture by all models.

        Raises:
            InvalidInput: A setting or a default is wrong, or the models do not fit together.
            FloatingPointError: The output of a model is not finite.
        """
        self.server = setup.server
        self.settings = read_settings(setup.config, setup.folder, setup.gpu)
        limits = [each for each in (self.settings.max_response_bytes, setup.max_response_bytes) if each is not None]
        self.settings = replace(self.settings, max_response_bytes=min(limits, default=None))
        self.capacity = self.plan()
        self.settings = replace(self.settings, dtype=getattr(torch, self.capacity.dtype))
        with logged_step(f"load the models onto {self.settings.device}"):
            self.load()
        logger.info("start: the models run in %s on %s", dtype_name(self.pipeline.dtype), self.settings.device)
        with logged_step("check the defaults"):
            check_packed_loras(self.settings.loras, self.adapters)
            check_defaults(self.settings.defaults, self.size_limits, self.catalogue, loras=self.loras)
            if self.catalogue is not None:
                table = quality_table(self.settings.quality, self.catalogue)
                self.settings = replace(self.settings, quality=table)
            self.check_memory_of_defaults()
        if self.settings.compile == "blocks":
            for model in filter(None, (self.pipeline.transformer, getattr(self.pipeline, "small", None))):
                compile_blocks(model, self.settings.compile_cache)
            with logged_step("compile the blocks of all models"):
                defaults, loras = self.settings.defaults, self.adapters.names
                warm_up_graphs(self.generate, self.size_limits, self.catalogue, defaults, loras)
        started = time.perf_counter()
        with logged_step("generate a first picture by all models"):
            warm_up(self.generate, self.size_limits, self.catalogue)
        self.first_picture_seconds = round(time.perf_counter() - started, 3)
        if self.explainer is not None:
            with logged_step("import the libraries of explanations"):
                question_fields()  # imports Captum, which takes seconds
        quality = self.settings.quality if self.catalogue is not None else {AUTO: None}
        self.dialects = Dialects(OpenAIImages(quality), KServeV2(setup.model, setup.version))
        self.pair = describe_pair(self.settings.folder)
        self.limit = TimeLimit(setup.response_timeout)
        self.limit.watch(self.models())

    def plan(self) -> Capacity:
        """Return what fits into the memory. Raises InvalidInput, before anything is loaded, if the weights do not."""
        capacity = plan_worker(self.settings, plain=not self.stitches)
        capacity.check()
        logger.info("memory: %s", capacity.describe(self.settings.pictures_per_forward))
        return capacity

    def check_memory_of_defaults(self) -> None:
        """Raise InvalidInput if the picture of a request without fields does not fit into the memory."""
        try:
            self.parse({"prompt": "any"})
        except InvalidInput as error:
            raise InvalidInput(under(f"{SECTION}.defaults", error)) from None

    def models(self) -> Sequence[nn.Module]:
        """Return the parts that compute pictures: the time limit of a batch is checked after each of their blocks."""
        pipeline = getattr(self, "pipeline", None)
        parts = [*getattr(pipeline, "components", {}).values(), getattr(pipeline, "small", None)]
        return [part for part in parts if isinstance(part, nn.Module)]

    @property
    def loras(self) -> list[str]:
        """The names of the adapters that a request may name. The plain endpoint knows those of the small model, too."""
        return sorted({*self.adapters.names, *self.settings.loras})

    def answer(self, rows: Sequence[Row], metrics: Metrics) -> list[Response]:
        """Return the answer to each row of a batch. No request makes this fail."""
        self.limit.begin()
        exchanges = [self.open(row) for row in rows]
        of_job = {job: each for each in exchanges for job in each.jobs if isinstance(job, Job) and not each.failure}
        for job in of_job:
            if job.queued is not None:
                metrics.waited(self.recipe_name(job.request), job.queued)
        answers = {each: self.close(each, metrics) for each in exchanges if each.is_complete}
        # The batch has one time limit, so a body with many pictures must not take the time of its neighbours.
        jobs = sorted(of_job, key=lambda job: of_job[job].pictures)
        for job, result in self.run(jobs, metrics):
            exchange = of_job[job]
            exchange.results[job] = result
            if exchange.is_complete:
                answers[exchange] = self.close(exchange, metrics)
        self.limit.end()
        worker = {WORKER_HEADER: str(os.getpid())}
        return [replace(answers[each], headers=answers[each].headers | worker) for each in exchanges]

    def open(self, row: Row) -> Exchange:
        """Return the exchange of a row, with a job for each of its valid requests."""
        exchange = open_exchange(row, self.dialects, self.settings.max_response_bytes)
        if exchange.failure is None:
            readings = exchange.asked.readings
            exchange.take([attempt(partial(self.read, exchange, each), exchange.request_id(each)) for each in readings])
        return exchange

    def close(self, exchange: Exchange, metrics: Metrics) -> Response:
        """Return the answer of a row whose results are complete, and count each of its requests."""
        answer = exchange.answer()
        refused = [each for each in exchange.jobs if isinstance(each, Failure)]
        for failure in refused or filter(None, [exchange.failure]):
            metrics.answered("none", "none", failure.kind)
        for job, result in exchange.results.items():
            kind = "explanation" if job.question else "prediction"
            outcome = result.kind if isinstance(result, Failure) else answer.outcome
            metrics.answered(kind, self.recipe_name(job.request), outcome)
        return answer

    def run(self, jobs: Sequence[Job], metrics: Metrics) -> Iterator[tuple[Job, Result | Response]]:
        """Yield each job with its result. Explanations come last, one by one, because they take long."""
        predictions = [job for job in jobs if job.question is None]
        for group in groups(predictions, self.pictures_per_forward):
            yield from zip(group, self.run_group(group, metrics), strict=True)
        for job in jobs:
            if job.question is not None:
                yield job, attempt(partial(self.answer_question, job), job.request_id)

    def answer_question(self, job: Job) -> Response:
        """Return the answer to a job with a question."""
        assert job.question is not None
        assert self.explainer is not None
        return encode_explanation(self.explainer(job.request, job.question, job.check))

    def run_group(self, group: Sequence[Job], metrics: Metrics) -> list[Result]:
        """Return the results of jobs that share a tensor. If they fail together, each is retried alone."""
        for job in group:
            job.check_deadline()
        alive = [job for job in group if not job.has_expired]
        results: dict[Job, Result] = {}
        if alive:
            results = dict(zip(alive, self.generate_group(alive), strict=True))
            reports = [result.report for result in results.values() if isinstance(result, Rendering)]
            if reports:
                metrics.generated(max(report["batch_size"] for report in reports), reports)
        return [
            failure_of(job.expired_error(), job.request_id) if job.has_expired else job.with_warnings(results[job])
            for job in group
        ]

    def generate_group(self, jobs: Sequence[Job]) -> Sequence[Result]:
        """Return a rendering for each job, or the failure that reports its error."""
        progress = Progress(jobs, self.preview)
        try:
            self.limit.check()
            return self.generate([job.request for job in jobs], progress)
        except Exception as error:
            if len(jobs) == 1 or isinstance(error, OutOfTime) or all(job.has_expired for job in jobs):
                return [failure_of(job.expired_error() if job.has_expired else error, job.request_id) for job in jobs]
            # As text: a log record that kept the exception would keep the tensors of its frames.
            logger.error("%d requests failed together, each is retried alone:\n%s", len(jobs), traceback.format_exc())
        # Outside of the except clause, the exception no longer holds the memory of the failed batch.
        return [result for job in jobs for result in self.generate_group([job])]

    def read(self, exchange: Exchange, reading: Reading) -> Job:
        """Return the job of one request. Raises InvalidInput that names every wrong field."""
        row, request_id = exchange.row, exchange.request_id(reading)

        def parse(fields: Any) -> tuple[GenerationRequest, Question | None]:
            asked = explanation_in(fields, row.is_explanation) if exchange.dialect is self.dialects.own else None
            if asked is None:
                return self.parse(fields, can_stream=row.is_http, request_id=request_id), None
            return self.parse_explanation(asked, request_id)

        request, question = reading.parsed(parse)
        logger.info("request %s: %s, dialect %s", request.request_id, row.name, exchange.dialect.name)
        return Job(request, row.sent_at, row.queued, exchange.send, question)

    def pictures_per_forward(self, generation: Generation) -> int:
        """Return the most pictures of such generations that share a forward: by the settings and by the memory."""
        return min(self.settings.pictures_per_forward, self.capacity.pictures_of(generation))

    def parse(self, payload: Any, **about: Any) -> GenerationRequest:
        """Return the request in a decoded payload, with this endpoint's defaults; `about`: see `parse_request`.

        Raises:
            InvalidInput: Names every wrong field, or what exceeds the memory of the worker.
        """
        request = parse_request(
            payload, self.settings.defaults, self.size_limits, self.catalogue, loras=self.loras, **about
        )
        raise_problems(self.capacity.problems(request.generation))
        return request

    def parse_explanation(self, payload: Any, request_id: str | None = None) -> tuple[GenerationRequest, Question]:
        """Return request and question of a decoded payload. Raises InvalidInput on endpoints without explanations."""
        if self.explainer is None or self.catalogue is None:
            raise InvalidInput([Problem(IN_BAND, "a prediction: this endpoint explains nothing", "an explanation")])
        found = parse_explanation(
            payload, self.settings.defaults, self.size_limits, self.catalogue, request_id, self.loras
        )
        raise_problems(self.capacity.problems(found[0].generation))
        return found

    def recipe_name(self, request: GenerationRequest) -> str:
        """Return the recipe's name in the report: there are few enough names for a label of a metric."""
        recipe = request.generation.recipe
        return recipe.name if recipe else "plain"

    def describe(self) -> dict[str, Any]:
        """Describe this endpoint and its requests: the answer to `GET /models/<model>?customized=true`."""
        packages = ("torch", "diffusers", "transformers", self.server)
        defaults = self.parse({"prompt": "any", "seed": 0}).to_dict()
        schemas = {"request_schema": request_schema(self.size_limits, defaults, self.catalogue, self.loras)}
        if self.explainer and self.catalogue:
            schemas["explanation_schema"] = explanation_schema(self.size_limits, defaults, self.catalogue, self.loras)
        return {
            "versions": {"hybridstitch": __version__} | {name: version(name) for name in packages},
            PROCESS: os.getpid(),
            "device": str(self.settings.device),
            "dtype": dtype_name(self.pipeline.dtype),
            **schemas,
            "limits": vars(self.size_limits),
            "memory": self.capacity.describe(self.settings.pictures_per_forward),
            "max_response_bytes": self.settings.max_response_bytes,
            "defaults": defaults,
            "pair": self.pair,
            "loras": self.adapters.describe(),
            "first_picture_seconds": self.first_picture_seconds,
            "compiled_graphs": graph_count(),
            "copy_on_disk": self.settings.folder.is_dir(),
            **(self.catalogue.describe() if self.catalogue else {}),
        }


@contextmanager
def logged_step(name: str) -> Iterator[None]:
    """Log when a named step of the start begins, and its duration."""
    logger.info("start: %s", name)
    started = time.perf_counter()
    yield
    logger.info("start: %s took %.2f s", name, time.perf_counter() - started)
