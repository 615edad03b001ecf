"""An error of a request without a form: each dialect writes it in its own one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hybridstitch.base.progress import counted
from hybridstitch.errors import InvalidInput, Problem

MAX_PROBLEMS = 50  # limits the error answer: one over TorchServe's limit would end the worker

_Found = TypeVar("_Found")

logger = logging.getLogger(__name__)


class DeadlineExceeded(Exception):  # noqa: N818 - the name that clients read
    """The `deadline_ms` of a request, or the server's limit, passed before its picture was complete."""


class UnknownPath(Exception):  # noqa: N818 - as the other errors of this file
    """A request came to a path below the endpoint that no dialect has."""


@dataclass(frozen=True)
class Failure:
    """Why a request has no picture.

    Attributes:
        kind: The error's type: `invalid_request`, `not_found`, `deadline_exceeded`, `numerical_error`,
            `response_too_large` or `internal_error`. Metrics count it.
        message: One sentence.
        status: HTTP's status.
        problems: Every wrong field of an invalid request.
        request_id: The caller's name for the request; None if it has none.
    """

    kind: str
    message: str
    status: int
    problems: tuple[Problem, ...] = ()
    request_id: str | None = None

    @property
    def sentences(self) -> list[str]:
        """Every problem of an invalid request in words; for another failure its message alone."""
        return [str(problem) for problem in self.problems] or [self.message]

    @property
    def sentence(self) -> str:
        """The sentences as one."""
        return "; ".join(self.sentences)


def failure_of(error: Exception, request_id: str | None = None) -> Failure:
    """Return the failure that reports an error, and log it. Its status is 400, 404, 504 or 500."""
    if isinstance(error, DeadlineExceeded):
        logger.info("request %s: %s", request_id, error)
        return Failure("deadline_exceeded", str(error), 504, request_id=request_id)
    if isinstance(error, UnknownPath):
        logger.info("refused request %s: %s", request_id, error)
        return Failure("not_found", str(error), 404, request_id=request_id)
    if isinstance(error, InvalidInput):
        problems = error.problems[:MAX_PROBLEMS]
        names = ", ".join(problem.field for problem in problems)
        logger.info("refused request %s: %r", request_id, names)
        message = f"{counted(len(error.problems), 'problem')} with the request: {names}"
        return Failure("invalid_request", message, 400, problems, request_id)
    logger.error("request %s failed", request_id, exc_info=error)
    if isinstance(error, FloatingPointError):
        return Failure("numerical_error", str(error), 500, request_id=request_id)
    message = f"{type(error).__name__} while answering; the server's log has the details"
    return Failure("internal_error", message, 500, request_id=request_id)


def attempt(step: Callable[[], _Found], request_id: str | None = None) -> _Found | Failure:
    """Return what `step` returns, or the failure that reports its error.

    So one wrong request of a batch ends early, the others go on, and no error ends the worker.
    """
    try:
        return step()
    except Exception as error:
        return failure_of(error, request_id)
