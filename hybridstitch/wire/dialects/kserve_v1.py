"""The bodies of KServe's protocol version 1, and of Vertex AI: `instances` in, `predictions` out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.wire.dialects.dialect import MAX_REQUESTS, Asked, Dialect, Reading, Result
from hybridstitch.wire.documents import Response, document_of, error_document, json_response
from hybridstitch.wire.failures import Failure
from hybridstitch.wire.request import raise_if_shapeless

INSTANCES = "instances"
PARAMETERS = "parameters"
WHOLE_ANSWERS = {"response_format": "json", "stream": False}
"""Fields of every request of a body with several: their answers come as one document."""


@dataclass(frozen=True)
class KServeV1(Dialect):
    """Each instance is a request. One that is refused or fails has its error in its place of the predictions."""

    name: str = "kserve-v1"

    def read(self, payload: Any) -> Asked:
        """Return one request for each instance. `parameters` are fields of all instances that do not set them."""
        raise_if_shapeless(payload)
        known = (INSTANCES, PARAMETERS)
        problems = [
            Problem(name[:80], one_of(known, name, "one of the known fields"), value)
            for name, value in payload.items()
            if name not in known
        ]
        instances, parameters = payload.get(INSTANCES), payload.get(PARAMETERS)
        if not isinstance(instances, list) or not 0 < len(instances) <= MAX_REQUESTS:
            got = f"{len(instances)} instances" if isinstance(instances, list) else instances
            problems.append(Problem(INSTANCES, f"a list of 1 to {MAX_REQUESTS} objects", got))
        if not isinstance(parameters, dict | None):
            problems.append(Problem(PARAMETERS, "an object with fields of all instances", parameters))
        raise_problems(problems)
        return Asked(tuple(_reading(instance, parameters or {}) for instance in instances))

    def answer(self, asked: Asked, results: Sequence[Result]) -> Response:
        """Return `{"predictions": […]}`, each the JSON document of its pictures, or `{"error": …}`.

        The status is 200 unless no instance has a picture; then it is that of the first one.
        """
        predictions = [error_document(each) if isinstance(each, Failure) else document_of(each) for each in results]
        answer = json_response({"predictions": predictions})
        failures = [each for each in results if isinstance(each, Failure)]
        if len(failures) < len(results):
            return answer
        return replace(answer, status=failures[0].status, outcome=failures[0].kind)

    def error(self, failure: Failure) -> Response:
        """Return `{"error": TEXT}`."""
        return text_error(failure)


def text_error(failure: Failure) -> Response:
    """Return the error document of both versions, which is one text."""
    return replace(json_response({"error": failure.sentence}), status=failure.status, outcome=failure.kind)


def whole_answer_problems(fields: dict[str, Any]) -> tuple[Problem, ...]:
    """Return what is wrong with the fields that have one value where answers come as one document."""
    return tuple(
        Problem(name, json.dumps(only), fields[name])
        for name, only in WHOLE_ANSWERS.items()
        if fields.get(name) is not None and fields[name] != only
    )


def with_shared(fields: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields, and the shared value of those that are absent or null."""
    unset = {name for name in shared if fields.get(name) is None}
    return {**fields, **{name: shared[name] for name in unset}}


def _reading(instance: Any, parameters: dict[str, Any]) -> Reading:
    if not isinstance(instance, dict):
        return Reading(instance)
    fields = with_shared(instance, parameters)
    return Reading(fields | WHOLE_ANSWERS, whole_answer_problems(fields))
