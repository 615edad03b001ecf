"""What both handlers share: the path of a batch from TorchServe's rows to its answers, and the description."""

from __future__ import annotations

import logging
import os
import time
import traceback
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

from hybridstitch._version import __version__
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.generation import Generation
from hybridstitch.model.compile import compile_blocks
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
from hybridstitch.serving.worker.explain import Explainer, encode_explanation
from hybridstitch.serving.worker.limit import OutOfTime, TimeLimit, response_timeout
from hybridstitch.serving.worker.metrics import Metrics
from hybridstitch.serving.worker.torchserve import (
    Row,
    decode_row,
    logged_step,
    read_row,
    send,
    send_piece,
)
from hybridstitch.serving.worker.warm_up import warm_up, warm_up_graphs
from hybridstitch.wire.documents import Rendering, Response, attempt, encode, error_response, fitting, last_event
from hybridstitch.wire.fields import request_schema
from hybridstitch.wire.names import IN_BAND, PROCESS, WORKER_HEADER
from hybridstitch.wire.question import Question, explanation_in, explanation_schema, parse_explanation, question_fields
from hybridstitch.wire.request import GenerationRequest, parse_request

logger = logging.getLogger(__name__)


class Service(BaseHandler):
    """Parse, generate, encode. Every item of a batch is a row, then a job, then an answer.

    An item that fails becomes its answer at once, and its neighbours continue. Jobs that can share a forward are
    generated as one tensor. A handler implements `load` and `generate`.
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

    def initialize(self, context: Context) -> None:
        """Load everything and generate one picture: READY means that all models work.

        Raises:
            InvalidInput: A setting or a default is wrong, or the models do not fit together.
            FloatingPointError: The output of a model is not finite.
        """
        self.context = context
        self.settings = read_settings(context)
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
        self.pair = describe_pair(self.settings.folder)
        self.limit = TimeLimit(response_timeout(context.model_yaml_config))
        self.limit.watch(self.models())
        self.initialized = True

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

    def preprocess(self, rows: list[dict[str, Any]]) -> list[Job | Response]:
        """Turn TorchServe's rows into jobs."""
        self.limit.begin()
        read = [attempt(partial(read_row, context=self.context), numbered) for numbered in enumerate(rows)]
        return [attempt(self.read, attempt(decode_row, row)) for row in read]

    def inference(self, items: list[Job | Response]) -> list[Response]:
        """Turn jobs into answers, in the order of the rows."""
        metrics = Metrics(self.context)
        answers = {index: item for index, item in enumerate(items) if isinstance(item, Response)}
        for answer in answers.values():
            metrics.answered("none", "none", answer.outcome)
        jobs = [item for item in items if isinstance(item, Job)]
        for job in jobs:
            if job.queued is not None:
                metrics.waited(self.recipe_name(job.request), job.queued)
        for job, answer in self.answer(jobs, metrics):
            answer = fitting(answer, self.settings.max_response_bytes)
            kind = "explanation" if job.question else "prediction"
            metrics.answered(kind, self.recipe_name(job.request), answer.outcome)
            answers[job.index] = last_event(answer) if job.has_begun else answer
        return [answers[index] for index in range(len(items))]

    def postprocess(self, answers: list[Response]) -> list[bytes]:
        """Turn answers into the bodies that TorchServe sends."""
        worker = {WORKER_HEADER: str(os.getpid())}
        answers = [replace(answer, headers=answer.headers | worker) for answer in answers]
        self.limit.end()
        return [send(answer, self.context, index, alone=len(answers) == 1) for index, answer in enumerate(answers)]

    def answer(self, jobs: Sequence[Job], metrics: Metrics) -> Iterator[tuple[Job, Response]]:
        """Yield each job with its answer. Explanations come last, one by one, because they take long."""
        predictions = [job for job in jobs if job.question is None]
        for group in groups(predictions, self.pictures_per_forward):
            yield from zip(group, self.answer_group(group, metrics), strict=True)
        for job in jobs:
            if job.question is not None:
                yield job, attempt(self.answer_question, job)

    def answer_question(self, job: Job) -> Response:
        """Return the answer to a job with a question."""
        assert job.question is not None
        assert self.explainer is not None
        return encode_explanation(self.explainer(job.request, job.question, job.check))

    def _is_explain(self) -> bool:
        # TorchServe decides for a whole batch by its first request; here each row decides for itself.
        return False

    def answer_group(self, group: Sequence[Job], metrics: Metrics) -> list[Response]:
        """Return the answers of jobs that share a tensor. If they fail together, each is retried alone."""
        for job in group:
            job.check_deadline()
        alive = [job for job in group if not job.has_expired]
        results: dict[int, Rendering | Response] = {}
        if alive:
            rendered = self.generate_group(alive)
            results = {job.index: result for job, result in zip(alive, rendered, strict=True)}
            reports = [result.report for result in rendered if isinstance(result, Rendering)]
            if reports:
                metrics.generated(max(report["batch_size"] for report in reports), reports)
        return [
            error_response(job.expired_error(), job.request_id)
            if job.has_expired
            else attempt(encode, job.with_warnings(results[job.index]))
            for job in group
        ]

    def generate_group(self, jobs: Sequence[Job]) -> Sequence[Rendering | Response]:
        """Return a rendering for each job, or the answer that reports its error."""
        progress = Progress(jobs, self.preview)
        try:
            self.limit.check()
            return self.generate([job.request for job in jobs], progress)
        except Exception as error:
            if len(jobs) == 1 or isinstance(error, OutOfTime) or all(job.has_expired for job in jobs):
                return [
                    error_response(job.expired_error() if job.has_expired else error, job.request_id) for job in jobs
                ]
            # As text: a log record that kept the exception would keep the tensors of its frames.
            logger.error("%d requests failed together, each is retried alone:\n%s", len(jobs), traceback.format_exc())
        # Outside of the except clause, the exception no longer holds the memory of the failed batch.
        return [result for job in jobs for result in self.generate_group([job])]

    def read(self, row: Row) -> Job:
        """Return the job of one row. Raises InvalidInput that names every wrong field."""
        fields = explanation_in(row.payload, row.is_explanation)
        if fields is None:
            request, question = self.parse(row.payload, can_stream=row.is_http, request_id=row.request_id), None
        else:
            request, question = self.parse_explanation(fields, row.request_id)
        logger.info("request %s: TorchServe's %s", request.request_id, self.context.get_request_id(row.index))
        piece = partial(send_piece, context=self.context, index=row.index)
        return Job(row.index, request, row.sent_at, row.queued, piece, question)

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

    def describe_handle(self) -> dict[str, Any]:
        """Describe this endpoint and its requests: the answer to `GET /models/<model>?customized=true`."""
        packages = ("torch", "diffusers", "transformers", "torchserve")
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
            "defaults": defaults,
            "pair": self.pair,
            "loras": self.adapters.describe(),
            "first_picture_seconds": self.first_picture_seconds,
            "copy_on_disk": self.settings.folder.is_dir(),
            **(self.catalogue.describe() if self.catalogue else {}),
        }
