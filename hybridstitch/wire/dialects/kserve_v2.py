"""The bodies of the Open Inference Protocol, KServe's protocol version 2: tensors by name in `inputs` and `outputs`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.wire.body import field_value
from hybridstitch.wire.dialects.dialect import MAX_REQUESTS, Asked, Dialect, Reading, Result
from hybridstitch.wire.dialects.kserve_v1 import (
    PARAMETERS,
    WHOLE_ANSWERS,
    text_error,
    whole_answer_problems,
    with_shared,
)
from hybridstitch.wire.documents import Rendering, Response, document_of, json_response
from hybridstitch.wire.failures import MAX_PROBLEMS, Failure
from hybridstitch.wire.request import MAX_DEPTH, MAX_FIELDS, raise_if_shapeless

INPUTS = "inputs"
OUTPUTS = ("image", "seed", "report")
"""The tensors of an answer: pictures in base64 and their seeds, one for each picture; a report for each request."""
_KNOWN = ("id", PARAMETERS, INPUTS, "outputs")
_KEYS_OF_OUTPUT = ("name", PARAMETERS)
_PARAMETERS_OF_OUTPUT: tuple[dict[str, Any] | None, ...] = (None, {}, {"binary_data": False})
_INTEGERS = tuple(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
_KINDS: dict[str, tuple[type, ...]] = {
    "BYTES": (str,),
    "BOOL": (bool,),
    **dict.fromkeys(_INTEGERS, (int,)),
    **dict.fromkeys(("FP16", "FP32", "FP64"), (int, float)),
}
"""The data types of an input, with the types of their JSON values."""
_CONTENT_TYPES = ("str", "np")
"""The values of the parameter `content_type`, which some clients send: values as they stand."""


@dataclass(frozen=True)
class KServeV2(Dialect):
    """Each input is a field, with a row for each request or one row for all. One wrong request refuses the body.

    Attributes:
        model, version: The names of the endpoint, which an answer repeats.
    """

    model: str
    version: str
    name: str = "kserve-v2"

    def read(self, payload: Any) -> Asked:
        """Return as many requests as the longest input has rows. `parameters` are fields that no input names."""
        raise_if_shapeless(payload)
        problems = [
            Problem(name[:80], one_of(_KNOWN, name, "one of the known fields"), value)
            for name, value in payload.items()
            if name not in _KNOWN
        ]
        named, parameters = payload.get("id"), payload.get(PARAMETERS)
        if not isinstance(named, str | None):
            problems.append(Problem("id", "a string", named))
        if not isinstance(parameters, dict | None):
            problems.append(Problem(PARAMETERS, "an object with fields of all requests", parameters))
        wanted = _wanted(payload.get("outputs"), problems)
        columns = _columns(payload[INPUTS], problems)
        count = max((len(rows) for rows in columns.values()), default=1)
        if count > MAX_REQUESTS:
            problems.append(Problem(INPUTS, f"at most {MAX_REQUESTS} rows", count))
        problems += [
            Problem(f"{INPUTS}.{name}", f"1 row or {count}, as the longest input has", len(rows))
            for name, rows in columns.items()
            if len(rows) not in (1, count)
        ]
        raise_problems(problems)
        table = [{name: rows[at % len(rows)] for name, rows in columns.items()} for at in range(count)]
        fields = [with_shared(row, parameters or {}) for row in table]
        readings = tuple(Reading(each | WHOLE_ANSWERS, whole_answer_problems(each)) for each in fields)
        return Asked(readings, {"id": named, "outputs": wanted})

    def answer(self, asked: Asked, results: Sequence[Result]) -> Response:
        """Return `{"model_name", "model_version", "id"?, "outputs": […]}`; an error if any request has no picture."""
        if failure := self.whole_failure(results):
            return self.error(failure)
        documents = [document_of(each) for each in results if isinstance(each, Rendering)]
        pictures = [picture for document in documents for picture in document["data"]]
        values = {
            "image": [picture["b64_json"] for picture in pictures],
            "seed": [picture["seed"] for picture in pictures],
            "report": [json.dumps(document["report"]) for document in documents],
        }
        named = {} if asked.echo["id"] is None else {"id": asked.echo["id"]}
        outputs = [_output(name, values[name]) for name in asked.echo["outputs"]]
        about = {"model_name": self.model, "model_version": self.version, **named}
        return json_response({**about, "outputs": outputs})

    def whole_failure(self, results: Sequence[object]) -> Failure | None:
        """Return the failures as one, with the number of the request before each of the first problems."""
        failures = [(at, each) for at, each in enumerate(results, 1) if isinstance(each, Failure)]
        if not failures or len(results) == 1:
            return failures[0][1] if failures else None
        words = [f"request {at} of {len(results)}: {each}" for at, failure in failures for each in failure.sentences]
        return Failure(failures[0][1].kind, "; ".join(words[:MAX_PROBLEMS]), failures[0][1].status)

    def error(self, failure: Failure) -> Response:
        """Return `{"error": TEXT}`."""
        return text_error(failure)


def _wanted(outputs: Any, problems: list[Problem]) -> Sequence[str]:
    """Return the names of the tensors that a client wants. What is wrong with them joins the problems."""
    if outputs is None:
        return OUTPUTS
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        problems.append(Problem("outputs", "a list of objects with a name", outputs))
        return ()
    if len(outputs) > len(OUTPUTS):
        problems.append(Problem("outputs", f"at most {len(OUTPUTS)} tensors", len(outputs)))
        return ()
    for at, output in enumerate(outputs):
        if (name := output.get("name")) not in OUTPUTS:
            problems.append(Problem("outputs", one_of(OUTPUTS, name), name))
        problems += [
            Problem(f"outputs.{at}.{key[:80]}", one_of(_KEYS_OF_OUTPUT, key), output[key])
            for key in output
            if key not in _KEYS_OF_OUTPUT
        ]
        if output.get(PARAMETERS) not in _PARAMETERS_OF_OUTPUT:
            expected = "nothing, or binary_data: false; tensors are JSON"
            problems.append(Problem(f"outputs.{at}.{PARAMETERS}", expected, output[PARAMETERS]))
    return [each.get("name") for each in outputs] or OUTPUTS


def _columns(inputs: Any, problems: list[Problem]) -> dict[str, list[Any]]:
    """Return the rows of every input by its name. What is wrong with them joins the problems."""
    if not isinstance(inputs, list) or not inputs:
        problems.append(Problem(INPUTS, "a list of tensors, at least one", inputs))
        return {}
    if len(inputs) > MAX_FIELDS:
        problems.append(Problem(INPUTS, f"at most {MAX_FIELDS} tensors", len(inputs)))
        return {}
    found: dict[str, list[Any]] = {}
    for at, tensor in enumerate(inputs):
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str) or not name:
            problems.append(Problem(f"{INPUTS}.{at}", "an object with name, shape, datatype and data", tensor))
        elif name in found:
            problems.append(Problem(f"{INPUTS}.{name[:80]}", "each name once", name))
        else:
            wrong = _tensor_problems(tensor, f"{INPUTS}.{name[:80]}")
            problems += wrong
            found[name] = [None] if wrong else _rows(tensor)
    return found


def _tensor_problems(tensor: Mapping[str, Any], field: str) -> list[Problem]:
    known = ("name", "shape", "datatype", "data", PARAMETERS)
    problems = [Problem(f"{field}.{key[:80]}", one_of(known, key), tensor[key]) for key in tensor if key not in known]
    kind, shape = tensor.get("datatype"), tensor.get("shape")
    parameters = tensor.get(PARAMETERS) or {}
    if not isinstance(parameters, dict) or any(
        name != "content_type" or value not in _CONTENT_TYPES for name, value in parameters.items()
    ):
        expected = f"nothing, or content_type: {' or '.join(_CONTENT_TYPES)}"
        problems.append(Problem(f"{field}.{PARAMETERS}", expected, parameters))
    if not isinstance(kind, str) or kind not in _KINDS:
        problems.append(Problem(f"{field}.datatype", one_of(_KINDS, kind), kind))
        return problems
    values = _flat(tensor.get("data"))
    if any(type(value) not in _KINDS[kind] for value in values):
        problems.append(Problem(f"{field}.data", f"values of the datatype {kind}", tensor.get("data")))
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DEPTH
        or any(type(side) is not int or side < 1 for side in shape)
        or math.prod(shape) != len(values)
    ):
        problems.append(Problem(f"{field}.shape", f"the shape of {len(values)} values, each side at least 1", shape))
    return problems


def _rows(tensor: Mapping[str, Any]) -> list[Any]:
    """Return the value of each request: one value of the tensor, or a list of those in a row."""
    name, values = tensor["name"], _flat(tensor["data"])
    if tensor["datatype"] == "BYTES":
        values = [field_value(name, value) for value in values]
    width = len(values) // (tensor["shape"] or [1])[0]
    return values if width == 1 else [values[at : at + width] for at in range(0, len(values), width)]


def _flat(data: Any) -> list[Any]:
    """Return the values of a tensor, which may be nested; the depth of a body is limited."""
    return [value for each in data for value in _flat(each)] if isinstance(data, list) else [data]


def _output(name: str, values: Sequence[Any]) -> dict[str, Any]:
    kind = "INT64" if name == "seed" else "BYTES"
    about = {PARAMETERS: {"content_type": "base64"}} if name == "image" else {}
    return {"name": name, "datatype": kind, "shape": [len(values)], **about, "data": list(values)}
