"""Reads and validates model-config.yaml, in `pack` and in the worker at its start."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hybridstitch.base.schema import Schema, integer, mismatch
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.model.lora_files import MODELS, name_problems
from hybridstitch.serving.yaml_loader import EachKeyOnce

if TYPE_CHECKING:
    import torch
    from ts.context import Context

    from hybridstitch.model.lora import Adapters
    from hybridstitch.model.pair import SizeLimits
    from hybridstitch.recipe.catalogue import Catalogue

PAIR_FOLDER = "pair"  # where an archive keeps the models
SECTION = "handler"
DTYPES = ("auto", "float32", "float16", "bfloat16")
MAX_RESPONSE_BYTES = 100 * 2**20  # what config.properties sets for the server
PICTURES_PER_FORWARD = 8
PROMPT_CACHE_MIB = 64
COMPILED_STARTUP = 1800
"""Seconds that a start with `compile: blocks` may need at least: a first one on two CPU cores took eight minutes."""
OF_STITCHING = ("recipe", "speed", "region", "previews")
"""Defaults that the plain endpoint ignores. It is packed with the same settings."""

_MOST = 2**31 - 1  # TorchServe ignores an integer that does not fit into 32 bits
_COUNT, _SWITCH = integer(1, _MOST), {"type": "boolean"}
_OF_TORCHSERVE: dict[str, Schema] = {
    "minWorkers": _COUNT,
    "maxWorkers": _COUNT,
    "batchSize": _COUNT,
    "maxBatchDelay": integer(0, _MOST),
    "responseTimeout": _COUNT,
    "startupTimeout": _COUNT,
    "maxRetryTimeoutInSec": _COUNT,
    "jobQueueSize": _COUNT,
    "useJobTicket": _SWITCH,
    "useVenv": _SWITCH,
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
}
"""Settings of TorchServe 0.12 that break the endpoint or have no effect: their neutral value, and the reason."""
_OF_HANDLER: dict[str, Schema] = {
    "dtype": {"enum": list(DTYPES)},
    "compile": {"enum": ["none", "blocks"]},
    "compile_cache": {"type": "string", "minLength": 1},
    "explanations": _SWITCH,
    "pictures_per_forward": _COUNT,
    "max_response_bytes": _COUNT,
    "max_memory_mib": _COUNT,
    "prompt_cache_mib": integer(0, _MOST),
    "text_encoders": {"enum": ["device", "cpu", "offload"]},
    "offload": {"enum": ["none", "model", "group"]},
}
_SECTIONS_OF_HANDLER = ("defaults", "strategies", "loras", "quantise", "devices")
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


@dataclass(frozen=True)
class Settings:
    """The settings of a worker, from TorchServe and from the `handler:` section of model-config.yaml.

    Attributes:
        folder: The pair in the unpacked archive.
        device: Where the models run.
        dtype: Type of the weights. None: chosen when the models are loaded, see `hybridstitch.model.dtype`.
        defaults: Values for the fields that a request omits.
        strategies: By axis, the operator's strategies as `module:Class`.
        compile: `blocks` compiles the transformers at the start.
        compile_cache: The folder where torch keeps compiled code between starts; None for its own choice.
        explanations: Whether the endpoint explains pictures.
        pictures_per_forward: The most pictures of a batch that share a forward.
        max_response_bytes: The longest answer. A longer one would end the worker.
        quantise: By part, the kind of its weights, or None for weights as stored.
        loras: By name, the files of the adapters that a request may name, by model. The archive has them.
        max_memory_mib: The memory that the worker plans with, if less is to be used than is free.
        prompt_cache_mib: The size of the cache of prompt embeddings. 0: none.
        text_encoders: Where the text encoders are: `device`, `cpu` or `offload`.
        offload: What waits on the CPU for its turn: `none`, `model` or `group`.
        workers: The number of workers of the model, which share the memory.
        small_device: Where the small model runs; None for `device`.
    """

    folder: Path
    device: torch.device
    dtype: torch.dtype | None
    defaults: Mapping[str, Any]
    strategies: Mapping[str, Any] | None
    compile: str = "none"
    compile_cache: str | None = None
    explanations: bool = True
    pictures_per_forward: int = PICTURES_PER_FORWARD
    max_response_bytes: int = MAX_RESPONSE_BYTES
    quantise: Mapping[str, str | None] | None = None
    loras: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    max_memory_mib: int | None = None
    prompt_cache_mib: int = PROMPT_CACHE_MIB
    text_encoders: str = "device"
    offload: str = "none"
    workers: int = 1
    small_device: torch.device | None = None

    @property
    def is_offloaded(self) -> bool:
        """Whether some parts wait, or stay, on the CPU."""
        return (self.text_encoders, self.offload) != ("device", "none")


def read_settings(context: Context) -> Settings:
    """The settings of this worker. Raises InvalidInput with every wrong key of model-config.yaml."""
    import torch

    config = context.model_yaml_config or {}
    raise_problems(config_problems(config))
    section = {name: value for name, value in (config.get(SECTION) or {}).items() if value is not None}
    properties = context.system_properties
    gpu = properties.get("gpu_id")
    uses_gpu = gpu is not None and torch.cuda.is_available()
    usual = torch.device("cuda", gpu) if uses_gpu else torch.device("cpu")
    device, small_device = found_devices(section.pop("devices", None)) or (usual, None)
    return Settings(
        folder=Path(properties["model_dir"], PAIR_FOLDER),
        device=device,
        small_device=small_device,
        dtype=getattr(torch, section.pop("dtype", DTYPES[0]), None),
        defaults=section.pop("defaults", {}),
        strategies=section.pop("strategies", None),
        workers=max(config.get("minWorkers") or 1, config.get("maxWorkers") or 1),
        **section,
    )


def found_devices(names: list[str] | None) -> list[torch.device]:
    """The devices of these names; none for None. Raises InvalidInput for one that this machine lacks."""
    import torch

    problems = []
    for name in names or []:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            expected = f"a device that torch finds here ({str(error).splitlines()[0]})"
            problems.append(Problem(f"{SECTION}.devices", expected, name))
    raise_problems(problems)
    return [torch.device(name) for name in names or []]


def _device_problems(section: Mapping[str, Any]) -> list[Problem]:
    """The problems of `devices`, also beside `offload`, which moves both models to one device."""
    if "devices" not in section:
        return []
    field, devices = f"{SECTION}.devices", section["devices"]
    if not _is_list_of(devices, lambda each: isinstance(each, str) and bool(_DEVICE.fullmatch(each))):
        devices = []
    if len(devices) != 2:
        expected = "two devices, of the large and of the small model, such as [cuda:0, cuda:1]"
        return [Problem(field, expected, section["devices"])]
    moving = [
        name for name in ("text_encoders", "offload") if section.get(name) in ("cpu", "offload", "model", "group")
    ]
    return [Problem(field, f"nothing beside {' and '.join(moving)}", devices)] if moving else []


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
    known = [*_OF_TORCHSERVE, "deviceIds", *_REFUSED, SECTION]
    problems = []
    for name, value in config.items():
        if name in _OF_TORCHSERVE:
            problems += _mismatches(name, _OF_TORCHSERVE[name], value)
        elif name in _REFUSED:
            problems += _refusals(name, value)
        elif name not in known:
            elsewhere = {each: f"{SECTION}.{each}" for each in (*_OF_HANDLER, *_SECTIONS_OF_HANDLER)}
            problems.append(Problem(str(name), _known_key(name, known, elsewhere), value))
    device_ids = config.get("deviceIds", [])
    if not _is_list_of(device_ids, lambda each: type(each) is int and 0 <= each <= _MOST):
        problems.append(Problem("deviceIds", "a list of integers of at least 0", device_ids))
    low, high = (config.get(name) for name in ("minWorkers", "maxWorkers"))
    if type(low) is int and type(high) is int and low > high > 0:
        problems.append(Problem("maxWorkers", f"at least {low}, the minWorkers", high))
    return problems + _section_problems(config.get(SECTION)) + _startup_problems(config)


def _startup_problems(config: Mapping[str, Any]) -> list[Problem]:
    """The problem of a worker that compiles: blocks must stay in place, and TorchServe must wait."""
    section, seconds = config.get(SECTION), config.get("startupTimeout")
    if not isinstance(section, Mapping) or section.get("compile") != "blocks":
        return []
    if section.get("offload") == "group":
        return [Problem(f"{SECTION}.offload", f"none or model with {SECTION}.compile: blocks", "group")]
    if type(seconds) is int and seconds >= COMPILED_STARTUP:
        return []
    expected = f"at least {COMPILED_STARTUP} s with {SECTION}.compile: blocks, which compiles for minutes at the start"
    return [Problem("startupTimeout", expected, seconds)]


def load_catalogue(strategies: Mapping[str, Any] | None) -> Catalogue:
    """The catalogue with the strategies of the section. Raises InvalidInput with the path of each wrong key."""
    from hybridstitch.recipe.catalogue import Catalogue

    try:
        return Catalogue.load(strategies)
    except InvalidInput as error:
        raise InvalidInput(under(SECTION, error)) from error


def check_defaults(
    defaults: Mapping[str, Any],
    limits: SizeLimits,
    catalogue: Catalogue | None,
    section: str = f"{SECTION}.defaults",
    loras: Collection[str] = (),
) -> None:
    """Validate defaults as if a request had sent them.

    Args:
        defaults: By field, the value.
        limits: The sizes that the pair can generate.
        catalogue: The recipes that requests may name. None, for the plain endpoint: fields of stitching are ignored.
        section: Where the defaults stand, for messages.
        loras: The names of the adapters that requests may name.

    Raises:
        InvalidInput: With every default that a request could not send.
    """
    from hybridstitch.wire.request import parse_request

    sent = {name: value for name, value in defaults.items() if value is not None}
    if catalogue is None:
        sent = without_stitching(sent)
    try:
        parse_request({"prompt": "any", **sent}, {}, limits, catalogue, loras=loras)
    except InvalidInput as error:
        raise InvalidInput(under(section, error)) from None


def check_packed_loras(loras: Mapping[str, Mapping[str, str]], adapters: Adapters) -> None:
    """Raise InvalidInput for an adapter that the settings name and the archive does not have."""
    held = {(name, model) for name, each in adapters.describe().items() for model in each["models"]}
    raise_problems(
        [
            Problem(f"{SECTION}.loras.{name}.{model}", "a file in the archive: pack it again after a change", file)
            for name, files in loras.items()
            for model, file in files.items()
            if model in adapters.models and (name, model) not in held
        ]
    )


def without_stitching(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that have a meaning for the plain endpoint."""
    return {name: value for name, value in defaults.items() if name not in OF_STITCHING}


def under(section: str, error: InvalidInput) -> list[Problem]:
    """The problems of an error, with the section before each field."""
    return [Problem(f"{section}.{each.field}", each.expected, each.got) for each in error.problems]


def _section_problems(section: Any) -> list[Problem]:
    if section is None:
        return []
    if not isinstance(section, Mapping):
        return [Problem(SECTION, "a mapping of settings", section)]
    known = [*_OF_HANDLER, *_SECTIONS_OF_HANDLER]
    problems = []
    for name, value in section.items():
        field = f"{SECTION}.{name}"
        if name in _OF_HANDLER:
            problems += _mismatches(field, _OF_HANDLER[name], value)
        elif name not in known:
            elsewhere = {each: f"{each}, outside of {SECTION}:" for each in (*_OF_TORCHSERVE, "deviceIds")}
            problems.append(Problem(field, _known_key(name, known, elsewhere), value))
    defaults = section.get("defaults")
    if not _is_section(defaults):
        problems.append(Problem(f"{SECTION}.defaults", "a mapping of a request's fields", defaults))
    return (
        problems + _device_problems(section) + _strategy_problems(section.get("strategies")) + _more_problems(section)
    )


def _strategy_problems(strategies: Any) -> list[Problem]:
    """The problems of the form of `strategies`. Whether they can be imported is checked by the catalogue."""
    field = f"{SECTION}.strategies"
    if not _is_section(strategies):
        return [Problem(field, "a mapping of masks, plans and fills", strategies)]
    return [
        Problem(f"{field}.{group}", "a mapping of names to module:Class", named)
        for group, named in (strategies or {}).items()
        if not (isinstance(named, Mapping) and _is_list_of([*named, *named.values()], lambda x: isinstance(x, str)))
    ]


def _more_problems(section: Mapping[str, Any]) -> list[Problem]:
    from hybridstitch.model.quantise import quantise_problems

    return _lora_problems(section.get("loras")) + quantise_problems(section.get("quantise"), f"{SECTION}.quantise")


def _lora_problems(loras: Any) -> list[Problem]:
    """The problems of the form of `loras`. Whether the files fit is checked by `pack`."""
    where = f"{SECTION}.loras"
    if loras is None:
        return []
    if not isinstance(loras, Mapping):
        return [Problem(where, "a mapping of names to files", loras)]
    problems = []
    for name, files in loras.items():
        problems += name_problems(f"{where}.{name}", name)
        is_form = isinstance(files, Mapping) and files and set(files) <= set(MODELS)
        if not is_form or not all(isinstance(file, str) and file for file in files.values()):
            problems.append(Problem(f"{where}.{name}", "{large: FILE, small: FILE}, or one of them", files))
    return problems


def _mismatches(field: str, schema: Schema, value: Any) -> list[Problem]:
    rule = mismatch(schema, value)
    return [Problem(field, rule, value)] if rule else []


def _refusals(name: str, value: Any) -> list[Problem]:
    neutral, reason = _REFUSED[name]
    if type(value) is type(neutral) and value == neutral:
        return []
    words = str(neutral).lower() if isinstance(neutral, bool | int) else "nothing"
    return [Problem(name, f"{words}: {reason}", value)]


def _known_key(name: Any, known: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    if name in elsewhere:
        return elsewhere[name]
    return one_of(sorted(known), name)


def _is_section(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(isinstance(name, str) for name in value))


def _is_list_of(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(fits, value))
