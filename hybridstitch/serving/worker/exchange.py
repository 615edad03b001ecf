"""One row and its answer, in the dialect of the row: the requests in it, their events and their results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.serving.worker.batch import Job
from hybridstitch.serving.worker.row import Row, valid_id
from hybridstitch.wire.body import decode_body, decode_fields
from hybridstitch.wire.dialects.choice import Dialects
from hybridstitch.wire.dialects.dialect import MAX_REQUESTS, Asked, Dialect, Event, Reading, Result
from hybridstitch.wire.documents import Response, too_long
from hybridstitch.wire.failures import Failure, failure_of

NOTHING = Asked(())
"""What a body requests that could not be read."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Exchange:
    """A row on its way through the worker.

    Attributes:
        row: What the server passed.
        dialect: In which its body is written, and its answer will be.
        limit: The longest answer in bytes that the server sends; None if it has no limit.
        asked: What its body requests.
        failure: Why the body as a whole has no answer but an error.
        jobs: For each of its requests a job, or why it is refused.
        results: For each job what became of it. An explanation is a Response already.
    """

    row: Row
    dialect: Dialect
    limit: int | None
    asked: Asked = NOTHING
    failure: Failure | None = None
    jobs: Sequence[Job | Failure] = ()
    results: dict[Job, Result | Response] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to generate."""
        return self.failure is not None or all(isinstance(each, Failure) or each in self.results for each in self.jobs)

    @property
    def pictures(self) -> int:
        """The number of pictures to generate."""
        return sum(job.request.num_images for job in self.jobs if isinstance(job, Job))

    def request_id(self, reading: Reading) -> str | None:
        """Return the name that a request has in its fields, or the row's; None for one that a header cannot echo."""
        named = reading.fields.get("request_id") if isinstance(reading.fields, dict) else None
        return valid_id(named) or self.row.request_id

    def take(self, jobs: Sequence[Job | Failure]) -> None:
        """Keep the jobs. None is generated if a refused one refuses the whole body, or if the pictures are too many."""
        self.jobs = jobs
        self.failure = self.dialect.whole_failure(jobs)
        if self.pictures > MAX_REQUESTS:
            expected = f"at most {MAX_REQUESTS} pictures of all requests together"
            too_many = Problem("num_images", expected, self.pictures)
            self.failure = failure_of(InvalidInput([too_many]), self.row.request_id)

    def send(self, event: Event) -> bool:
        """Send a piece of a stream if the dialect has one for the event. Returns whether it was sent."""
        piece = self.dialect.event(event, self.asked)
        if piece is None:
            return False
        if failure := too_long(piece, self.limit):
            logger.warning("request %s: event %s left out: %s", event.request.request_id, event.name, failure.message)
            return False
        self.row.send_piece(piece)
        return True

    def answer(self) -> Response:
        """Return the answer, or the last piece of a stream. Needs every result."""
        streamed = next((job for job in self.results if job.request.stream), None)
        found = self.dialect.error(self.failure) if self.failure else self._answer(streamed)
        failure = too_long(found, self.limit)
        if failure is None:
            return found
        has_begun = streamed is not None and streamed.has_begun
        return self.dialect.ending(self.asked, failure) if has_begun else self.dialect.error(failure)

    def _answer(self, streamed: Job | None) -> Response:
        """Return the answer to a body without a failure as a whole, of any length. streamed: see `_written`."""
        results = [each if isinstance(each, Failure) else self.results[each] for each in self.jobs]
        try:
            return self._written(results, streamed)
        except Exception as error:
            return self._written([failure_of(error, self.row.request_id)] * len(results), streamed)

    def _written(self, results: Sequence[Any], streamed: Job | None) -> Response:
        """Return the results in the dialect. streamed: The only job, if its answer is a stream."""
        if len(results) == 1 and isinstance(results[0], Response):
            return results[0]
        if streamed is not None and (streamed.has_begun or not isinstance(results[0], Failure)):
            return self.dialect.ending(self.asked, results[0])
        return self.dialect.answer(self.asked, results)


def open_exchange(row: Row, dialects: Dialects, limit: int | None) -> Exchange:
    """Return the exchange of a row with the requests in its body. Nothing that a client sends makes this fail.

    Args:
        row: What the server passed.
        dialects: Those of the endpoint.
        limit: The longest answer in bytes that the server sends; None if it has no limit.
    """
    exchange = Exchange(row, dialects.at(row.path), limit)
    try:
        dialects.check(row.path, row.is_explanation)
        if row.is_http:
            payload = decode_body(row.values, row.headers.get("content-type", ""), row.types)
        else:
            payload = decode_fields(row.values, row.types)
        exchange.dialect = dialects.of(row.path, payload, row.is_explanation)
        exchange.asked = exchange.dialect.read(payload)
    except Exception as error:
        exchange.failure = failure_of(error, row.request_id)
    return exchange
