"""Rules between fields of a request, and how an operator's defaults give way to what a request sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridstitch.errors import Problem
from hybridstitch.model.size_limits import SizeLimits
from hybridstitch.region import region_problems
from hybridstitch.wire.names import MAX_SEED


@dataclass(frozen=True)
class Rule:
    """A condition between fields that are each valid alone.

    Attributes:
        fields: Their names. Defaults among them give way in this order.
        problem: Returns what is wrong with the values, or None. Fields that are unset or wrong alone are not in them.
    """

    fields: tuple[str, ...]
    problem: Callable[[Mapping[str, Any]], Problem | None]


def request_rules(limits: SizeLimits, can_stream: bool) -> list[Rule]:
    """Return the rules of every request.

    Args:
        limits: The picture sizes of the pair.
        can_stream: False over gRPC, where a streamed answer would block TorchServe's thread of the worker for ever, and
            in a workflow, where only its first event would arrive.
    """

    def region(values: Mapping[str, Any]) -> Problem | None:
        size = (values.get(side, limits.maximum) for side in ("width", "height"))
        found = region_problems(values["region"], *size) if values.get("region") else []
        return found[0] if found else None

    def stream(values: Mapping[str, Any]) -> Problem | None:
        if can_stream or not values.get("stream"):
            return None
        return Problem("stream", "false over gRPC and in a workflow, where only whole answers are sent", True)

    return [
        Rule(("speed", "recipe"), _speed),
        Rule(("stream",), stream),
        Rule(("response_format", "stream", "num_images"), _response_format),
        Rule(("seed", "num_images"), _seed),
        Rule(("previews", "stream"), _previews),
        Rule(("region", "width", "height"), region),
    ]


def settle(
    rules: Sequence[Rule],
    values: dict[str, Any],
    wrong: set[str],
    defaults: set[str],
    built_in: Mapping[str, Any],
) -> list[Problem]:
    """Drop defaults from `values` where they break a rule, and return what is still wrong between fields.

    A client is never refused for a field that it did not send.

    Args:
        rules: The conditions between fields.
        values: All fields; changed in place.
        wrong: Fields that are wrong alone.
        defaults: Fields whose values are an operator's defaults.
        built_in: What replaces such a default. A field that is absent here becomes unset.
    """
    left = set(defaults)
    while True:
        right = {name: value for name, value in values.items() if name not in wrong}
        broken = [(rule, problem) for rule in rules if (problem := rule.problem(right))]
        yielding = next((name for rule, _ in broken for name in rule.fields if name in left), None)
        if yielding is None:
            return [problem for _, problem in broken]
        left.remove(yielding)
        values.pop(yielding)
        if yielding in built_in:
            values[yielding] = built_in[yielding]


def is_one_picture(values: Mapping[str, Any]) -> bool:
    """Return whether the answer is a single picture, sent as a whole."""
    return values.get("num_images", 1) == 1 and values.get("stream") is not True


def _speed(values: Mapping[str, Any]) -> Problem | None:
    return Problem("speed", "no recipe beside it", values["speed"]) if {"speed", "recipe"} <= values.keys() else None


def _response_format(values: Mapping[str, Any]) -> Problem | None:
    if values.get("response_format") != "image" or is_one_picture(values):
        return None
    return Problem("response_format", "json for a stream and for several images", "image")


def _seed(values: Mapping[str, Any]) -> Problem | None:
    seed, images = values.get("seed"), values.get("num_images", 1)
    if seed is None or seed + images - 1 <= MAX_SEED:
        return None
    return Problem("seed", f"at most {MAX_SEED + 1 - images} with num_images {images}", seed)


def _previews(values: Mapping[str, Any]) -> Problem | None:
    if not values.get("previews") or values.get("stream", True):
        return None
    return Problem("previews", "0 without stream", values["previews"])
