"""Reads and validates model-config.yaml, in `pack` and in the worker at its start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hybridstitch.base.schema import Schema, integer
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.serving.section import (
    COUNT,
    MOST,
    OF_HANDLER,
    SECTION,
    SECTIONS_OF_HANDLER,
    SWITCH,
    is_list_of,
    known_key,
    mismatches,
    section_problems,
)
from hybridstitch.serving.yaml_loader import EachKeyOnce

RESPONSE_SECONDS = 120
"""What TorchServe waits for archives whose model-config.yaml has no valid `responseTimeout`."""
COMPILED_STARTUP = 1800
"""Seconds that a start with `compile: blocks` may need at least: a first one on two CPU cores took eight minutes."""

_OF_TORCHSERVE: dict[str, Schema] = {
    "minWorkers": COUNT,
    "maxWorkers": COUNT,
    "batchSize": COUNT,
    "maxBatchDelay": integer(0, MOST),
    "responseTimeout": COUNT,
    "startupTimeout": COUNT,
    "maxRetryTimeoutInSec": COUNT,
    "jobQueueSize": COUNT,
    "useJobTicket": SWITCH,
    "useVenv": SWITCH,
    "deviceType": {"enum": ["cpu", "gpu"]},
}
"""The settings of TorchServe 0.12 that have an effect. TorchServe itself ignores a value of another type."""
_ONE_PROCESS = "each worker is one process with both models"
_NO_SEQUENCES = "the handler has no sequences of requests"
_REFUSED: dict[str, tuple[Any, str]] = {
    "clientTimeoutInMills": (0, "TorchServe drops what waited longer without an answer; requests can set deadline_ms"),
    "continuousBatching": (False, "the handler answers a batch as a whole"),
    "asyncCommunication": (False, "the handler answers a batch as a whole"),
    "sequenceBatching": (False, _NO_SEQUENCES),
    "sequenceMaxIdleMSec": (0, _NO_SEQUENCES),
    "sequenceTimeoutMSec": (0, _NO_SEQUENCES),
    "maxSequenceJobQueueSize": (1, _NO_SEQUENCES),
    "maxNumSequence": (1, _NO_SEQUENCES),
    "parallelType": ("", _ONE_PROCESS),
    "parallelLevel": (1, _ONE_PROCESS),
    "torchrun": ({}, _ONE_PROCESS),
    "micro_batching": ({}, f"{SECTION}.pictures_per_forward divides a batch"),
}
"""Settings of TorchServe 0.12 that break the endpoint or have no effect: their neutral value, and the reason."""
_PT2 = "pt2"
_PT2_FORM = (
    f"{{compile: {{enable: true}}}}, which is {SECTION}.compile: blocks; other options of it have no effect here"
)
_BACKEND = "inductor"


def read_config(path: Path) -> dict[str, Any]:
    """The content of a model-config.yaml. Raises InvalidInput with every wrong key, or if it cannot be read."""
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), EachKeyOnce)
    except FileNotFoundError:
        raise InvalidInput([Problem("config", "an existing YAML file", str(path))]) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        words = str(error)
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            words = f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
        raise InvalidInput([Problem("config", f"YAML that can be read ({words})", str(path))]) from error
    raise_problems(config_problems(config))
    return dict(config)


def config_problems(config: Any) -> list[Problem]:
    """The problems of a model-config.yaml, without those that depend on the pair and its strategies."""
    if not isinstance(config, Mapping):
        return [Problem("model-config.yaml", "a mapping of settings", config)]
    known = [*_OF_TORCHSERVE, "deviceIds", _PT2, *_REFUSED, SECTION]
    problems = []
    for name, value in config.items():
        if name in _OF_TORCHSERVE:
            problems += mismatches(name, _OF_TORCHSERVE[name], value)
        elif name in _REFUSED:
            problems += _refusals(name, value)
        elif name not in known:
            elsewhere = {each: f"{SECTION}.{each}" for each in (*OF_HANDLER, *SECTIONS_OF_HANDLER)}
            problems.append(Problem(str(name), known_key(name, known, elsewhere), value))
    device_ids = config.get("deviceIds", [])
    if not is_list_of(device_ids, lambda each: type(each) is int and 0 <= each <= MOST):
        problems.append(Problem("deviceIds", "a list of integers of at least 0", device_ids))
    low, high = (config.get(name) for name in ("minWorkers", "maxWorkers"))
    if type(low) is int and type(high) is int and low > high > 0:
        problems.append(Problem("maxWorkers", f"at least {low}, the minWorkers", high))
    problems += _pt2_problems(config) if _PT2 in config else []
    return problems + section_problems(config.get(SECTION), (*_OF_TORCHSERVE, "deviceIds")) + _startup_problems(config)


def compile_of(config: Mapping[str, Any]) -> str:
    """What a worker compiles, `none` or `blocks`: by its section, or by TorchServe's own `pt2`."""
    compiled = (config.get(SECTION) or {}).get("compile")
    return compiled or ("blocks" if _PT2 in config and config[_PT2]["compile"]["enable"] else "none")


def _pt2_problems(config: Mapping[str, Any]) -> list[Problem]:
    """The problem of TorchServe's setting for `torch.compile`, of which one form means the same as ours."""
    given, section = config[_PT2], config.get(SECTION)
    options = given["compile"] if isinstance(given, Mapping) and [*given] == ["compile"] else None
    if not isinstance(options, Mapping) or type(options.get("enable")) is not bool:
        return [Problem(_PT2, _PT2_FORM, given)]
    if options.keys() - {"enable", "backend"} or options.get("backend", _BACKEND) != _BACKEND:
        return [Problem(_PT2, _PT2_FORM, given)]
    compiled = section.get("compile") if isinstance(section, Mapping) else None
    if compiled in ("none", "blocks") and options["enable"] != (compiled == "blocks"):
        expected = f"{str(not options['enable']).lower()} beside {SECTION}.compile: {compiled}"
        return [Problem(f"{_PT2}.compile.enable", expected, options["enable"])]
    return []


def _startup_problems(config: Mapping[str, Any]) -> list[Problem]:
    """The problem of a worker that compiles: blocks must stay in place, and TorchServe must wait."""
    section, seconds = config.get(SECTION), config.get("startupTimeout")
    if _PT2 in config and _pt2_problems(config):
        return []
    if not isinstance(section, Mapping | None) or compile_of(config) != "blocks":
        return []
    if section and section.get("offload") == "group":
        return [Problem(f"{SECTION}.offload", "none or model in a worker that compiles", "group")]
    if type(seconds) is int and seconds >= COMPILED_STARTUP:
        return []
    expected = f"at least {COMPILED_STARTUP} s for a worker that compiles, which takes minutes at the start"
    return [Problem("startupTimeout", expected, seconds)]


def _refusals(name: str, value: Any) -> list[Problem]:
    neutral, reason = _REFUSED[name]
    if type(value) is type(neutral) and value == neutral:
        return []
    words = str(neutral).lower() if isinstance(neutral, bool | int) else "nothing"
    return [Problem(name, f"{words}: {reason}", value)]


def response_timeout(config: Mapping[str, Any] | None) -> int:
    """Return the seconds that TorchServe waits for a worker whose model-config.yaml is `config`.

    An archive with such a file takes the number from there alone: neither config.properties nor an argument of the
    registration counts.
    """
    seconds = (config or {}).get("responseTimeout")
    return seconds if type(seconds) is int and seconds > 0 else RESPONSE_SECONDS
