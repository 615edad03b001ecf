"""What a dialect is: it reads the bodies of its clients, and writes the answers, errors and events that they read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hybridstitch.errors import Problem, collected, raise_problems
from hybridstitch.wire.documents import Rendering, Response
from hybridstitch.wire.failures import Failure
from hybridstitch.wire.request import GenerationRequest

MAX_REQUESTS = 32
"""The most requests in one body, and the most pictures of them together: a worker keeps all until the last is ready."""

Result = Rendering | Failure
"""What became of one request."""
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True)
class Reading:
    """One request of a body.

    Attributes:
        fields: The fields of a request under the names of this project. They are not validated yet.
        problems: What is wrong with fields that a request of this project does not have.
        renamed: By our name, the client's name of a field that has another one in this dialect.
    """

    fields: Any
    problems: tuple[Problem, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    def parsed(self, parse: Callable[[Any], _Parsed]) -> _Parsed:
        """Return what `parse` makes of the fields.

        Raises:
            InvalidInput: Names every wrong field as the client named it.
        """
        own: list[Problem] = []
        request = None
        with collected(own):
            request = parse(self.fields)
        found = [Problem(self.renamed.get(each.field, each.field), each.expected, each.got) for each in own]
        raise_problems([*self.problems, *found])
        assert request is not None
        return request


@dataclass(frozen=True)
class Asked:
    """The requests of one body.

    Attributes:
        readings: Its requests, at least one.
        echo: What the dialect repeats in the answer, by the dialect's own names.
    """

    readings: tuple[Reading, ...]
    echo: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """News of a request that is streamed.

    Attributes:
        name: `progress`, `mask` or `preview`.
        request: The request.
        content: As docs/interface.md lists it for the event. A preview has `picture`, a PIL image, and `index`, the
            number of earlier previews of the same image.
    """

    name: str
    request: GenerationRequest
    content: Mapping[str, Any]


class Dialect(ABC):
    """One form of requests and answers. It keeps nothing between calls, so all workers and threads may share it.

    A call is `read`, then each reading is parsed and generated, then `answer` gets the results in the same order.
    """

    name: str

    @abstractmethod
    def read(self, payload: Any) -> Asked:
        """Return the requests in a decoded body.

        Raises:
            InvalidInput: What is wrong with the body as a whole. Problems of one request are in its `Reading`.
        """

    @abstractmethod
    def answer(self, asked: Asked, results: Sequence[Result]) -> Response:
        """Return the answer: one result for each reading, in their order."""

    @abstractmethod
    def error(self, failure: Failure) -> Response:
        """Return the answer to a body that failed as a whole."""

    def whole_failure(self, results: Sequence[object]) -> Failure | None:
        """Return why a body fails as a whole if one of its requests is a Failure; None where each fails alone."""
        return None

    def event(self, event: Event, asked: Asked) -> Response | None:
        """Return a piece of a stream; None for an event that this dialect does not have.

        A dialect whose readings never set `stream` does not implement this and `ending`.
        """
        raise NotImplementedError

    def ending(self, asked: Asked, result: Result) -> Response:
        """Return the last piece of a stream. The status is sent already, so the piece also carries an error."""
        raise NotImplementedError
