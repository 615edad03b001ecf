"""A batch of requests: which requests share a forward, and the events and deadlines of each."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from PIL import Image
from torch import Tensor

from hybridstitch.generation import Generation
from hybridstitch.sampler import Step
from hybridstitch.wire.dialects.dialect import Event, Result
from hybridstitch.wire.failures import DeadlineExceeded, Failure
from hybridstitch.wire.question import Question
from hybridstitch.wire.request import GenerationRequest

Preview = Callable[[Tensor], Sequence[Image.Image]]
"""Turns latents `(pictures, channels, height, width)` into pictures."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """One valid request on its way through the worker.

    Attributes:
        request: What to generate and how to deliver it.
        sent_at: Seconds since 1970; the deadline counts from there.
        queued: Seconds that it waited before the worker got it; None if the client does not send its start time.
        send: Sends an event of a streamed answer at once; returns False if the client's dialect has none for it.
        question: What to explain of the generation; None for a prediction.
        has_begun: Whether an event of its stream was sent.
        has_expired: Whether its deadline has passed.
        started: When its generation began, on the clock of `time.perf_counter`.
        sent_steps, sent_tokens: For each of its pictures, the number of steps that the stream has reported, and the
            last mask. A request that is retried alone keeps them, so it reports no step twice.
        sent_previews: For each of its pictures, the index of the last preview that the stream has sent.
        warnings: Sentences for the report about events that the stream left out.
    """

    request: GenerationRequest
    sent_at: float
    queued: float | None
    send: Callable[[Event], bool]
    question: Question | None = None
    has_begun: bool = False
    has_expired: bool = False
    started: float | None = None
    sent_steps: dict[int, int] = field(default_factory=dict)
    sent_previews: dict[int, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    sent_tokens: dict[int, list[int]] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def check_deadline(self) -> None:
        """Set `has_expired` if the deadline has passed."""
        limit = self.request.deadline_ms or math.inf
        self.has_expired = self.has_expired or 1000 * (time.time() - self.sent_at) > limit

    def expired_error(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"deadline_ms: {self.request.deadline_ms} ms have passed before the answer was ready")

    def check(self) -> None:
        """Raise DeadlineExceeded if the deadline has passed."""
        self.check_deadline()
        if self.has_expired:
            raise self.expired_error()

    def with_warnings(self, result: Result) -> Result:
        """Return the rendering with this job's warnings in its report."""
        if isinstance(result, Failure) or not self.warnings:
            return result
        return replace(result, report=result.report | {"warnings": [*result.report["warnings"], *self.warnings]})

    def emit(self, name: str, **content: Any) -> None:
        """Send an event of the stream."""
        self.has_begun = self.send(Event(name, self.request, content)) or self.has_begun


def groups(jobs: Sequence[Job], pictures: Callable[[Generation], int]) -> list[list[Job]]:
    """Group the jobs that can share a forward.

    Args:
        jobs: Predictions.
        pictures: Returns the most pictures of a group of such generations; a single request with more forms a group
            alone.
    """
    found: list[list[Job]] = []
    open_groups: dict[str, list[Job]] = {}
    for job in jobs:
        key = job.request.generation.batch_key
        group = open_groups.get(key, [])
        if not group or sum(each.request.num_images for each in [*group, job]) > pictures(job.request.generation):
            group = open_groups[key] = []
            found.append(group)
        group.append(job)
    return found


class Progress:
    """Watches the generation of a group: sends the events of streams, and ends it when every deadline has passed."""

    def __init__(self, jobs: Sequence[Job], preview: Preview | None):
        """preview: Turns latents into pictures; None where no request can have previews."""
        ends = accumulate(job.request.num_images for job in jobs)
        self._jobs = [(job, range(end - job.request.num_images, end)) for job, end in zip(jobs, ends, strict=True)]
        self._preview = preview
        for job in jobs:
            job.started = job.started or time.perf_counter()

    def __call__(self, pictures: range, step: Step) -> None:
        """Handle a step of these pictures of the group. Raises DeadlineExceeded if every deadline has passed."""
        for job, own in self._jobs:
            job.check_deadline()
            present = [picture for picture in pictures if picture in own]
            news = [each for each in present if job.sent_steps.get(each - own.start, 0) <= step.index]
            if news and job.request.stream and not job.has_expired:
                rows = [picture - pictures.start for picture in news]
                self._report(job, step, [picture - own.start for picture in news], rows)
        if all(job.has_expired for job, _ in self._jobs):
            raise DeadlineExceeded

    def _report(self, job: Job, step: Step, images: list[int], rows: list[int]) -> None:
        """Send the events of a step. images: Numbers within their request. rows: Places in the step's tensors."""
        request, done = job.request, step.index + 1
        elapsed = round(1000 * (time.perf_counter() - (job.started or 0)), 1)
        job.sent_steps.update(dict.fromkeys(images, done))
        job.emit(
            "progress", step=done, steps=step.steps, images=images, large_share=round(step.share, 6), elapsed_ms=elapsed
        )
        if step.tokens is not None and step.trajectory is not None:
            self._report_masks(job, step.tokens, step.trajectory.grid, images, rows, done)
        is_due = done * (request.previews + 1) // step.steps > step.index * (request.previews + 1) // step.steps
        if self._preview and is_due and done < step.steps:
            for image, row in zip(images, rows, strict=True):
                self._send_preview(job, done, image, step.denoised[row : row + 1])

    def _send_preview(self, job: Job, done: int, image: int, denoised: Tensor) -> None:
        """Send a preview, unless it is not finite: an early estimate may overflow where the picture does not."""
        assert self._preview is not None
        try:
            (picture,) = self._preview(denoised)
        except FloatingPointError as error:
            logger.warning("request %s: preview of image %d at step %d: %s", job.request_id, image, done, error)
            job.warnings.append(f"preview of image {image} at step {done}: left out, its estimate was not finite")
            return
        index = job.sent_previews[image] = job.sent_previews.get(image, -1) + 1
        job.emit("preview", step=done, image=image, index=index, picture=picture)

    def _report_masks(
        self, job: Job, tokens: Tensor, grid: tuple[int, int], images: list[int], rows: list[int], done: int
    ) -> None:
        everyone = tokens.tolist()  # one wait for the accelerator, not one for each picture
        for image, row in zip(images, rows, strict=True):
            rendered = everyone[row]
            if rendered != job.sent_tokens.get(image):
                job.sent_tokens[image] = rendered
                job.emit("mask", step=done, image=image, grid=list(grid), tokens=rendered)
