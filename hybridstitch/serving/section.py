"""The rules of the section `handler:` of model-config.yaml: every key is known and of the right kind."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from hybridstitch.base.schema import Schema, integer, mismatch
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import Problem
from hybridstitch.model.lora_files import MODELS, name_problems

SECTION = "handler"
DTYPES = ("auto", "float32", "float16", "bfloat16")
QUALITIES: Mapping[str, float | None] = {"auto": None, "low": 4.0, "medium": 2.5, "high": 1.83}
"""The `quality` of OpenAI's images API: by name, the speed that it stands for; None for the default recipe."""
MOST = 2**31 - 1  # TorchServe ignores an integer that does not fit into 32 bits
COUNT, SWITCH = integer(1, MOST), {"type": "boolean"}

_PATH: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 4096,
    "pattern": r"[^\0]+",
    "$comment": "the path of a folder",
}
OF_HANDLER: dict[str, Schema] = {
    "dtype": {"enum": list(DTYPES)},
    "compile": {"enum": ["none", "blocks"]},
    "compile_cache": _PATH,
    "explanations": SWITCH,
    "mark": SWITCH,
    "pictures_per_forward": COUNT,
    "max_response_bytes": COUNT,
    "max_memory_mib": COUNT,
    "prompt_cache_mib": integer(0, MOST),
    "text_encoders": {"enum": ["device", "cpu", "offload"]},
    "offload": {"enum": ["none", "model", "group"]},
}
SECTIONS_OF_HANDLER = ("defaults", "strategies", "loras", "quantise", "devices", "quality")
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


def section_problems(section: Any, outside: Collection[str]) -> list[Problem]:
    """The problems of the section, without those that depend on the pair and its strategies.

    Args:
        section: The value of the key `handler`.
        outside: The keys of model-config.yaml itself, which a message about a misplaced one names.
    """
    if section is None:
        return []
    if not isinstance(section, Mapping):
        return [Problem(SECTION, "a mapping of settings", section)]
    known = [*OF_HANDLER, *SECTIONS_OF_HANDLER]
    problems = []
    for name, value in section.items():
        field = f"{SECTION}.{name}"
        if name in OF_HANDLER:
            problems += mismatches(field, OF_HANDLER[name], value)
        elif name not in known:
            elsewhere = {each: f"{each}, outside of {SECTION}:" for each in outside}
            problems.append(Problem(field, known_key(name, known, elsewhere), value))
    defaults = section.get("defaults")
    if not _is_section(defaults):
        problems.append(Problem(f"{SECTION}.defaults", "a mapping of a request's fields", defaults))
    return (
        problems + _device_problems(section) + _strategy_problems(section.get("strategies")) + _more_problems(section)
    )


def _device_problems(section: Mapping[str, Any]) -> list[Problem]:
    """The problems of `devices`, also beside `offload`, which moves both models to one device."""
    field, devices = f"{SECTION}.devices", section.get("devices")
    if devices is None:
        return []
    if not is_list_of(devices, lambda each: isinstance(each, str) and bool(_DEVICE.fullmatch(each))):
        devices = []
    if len(devices) != 2:
        expected = "two devices, of the large and of the small model, such as [cuda:0, cuda:1]"
        return [Problem(field, expected, section["devices"])]
    moving = [
        name for name in ("text_encoders", "offload") if section.get(name) in ("cpu", "offload", "model", "group")
    ]
    return [Problem(field, f"nothing beside {' and '.join(moving)}", devices)] if moving else []


def _strategy_problems(strategies: Any) -> list[Problem]:
    """The problems of the form of `strategies`. Whether they can be imported is checked by the catalogue."""
    field = f"{SECTION}.strategies"
    if not _is_section(strategies):
        return [Problem(field, "a mapping of masks, plans and fills", strategies)]
    return [
        Problem(f"{field}.{group}", "a mapping of names to module:Class", named)
        for group, named in (strategies or {}).items()
        if not (isinstance(named, Mapping) and is_list_of([*named, *named.values()], lambda x: isinstance(x, str)))
    ]


def _more_problems(section: Mapping[str, Any]) -> list[Problem]:
    from hybridstitch.model.quantise import quantise_problems

    quantised = quantise_problems(section.get("quantise"), f"{SECTION}.quantise")
    return _lora_problems(section.get("loras")) + quantised + _quality_problems(section.get("quality"))


def _quality_problems(table: Any) -> list[Problem]:
    """The problems of the form of `quality`. Whether the pair has the speeds is checked by `check_quality`."""
    where = f"{SECTION}.quality"
    if not _is_section(table):
        return [Problem(where, "a mapping of names to speeds, such as {low: 4, high: 1.83}", table)]
    problems = []
    for name, speed in (table or {}).items():
        if name not in QUALITIES:
            problems.append(Problem(f"{where}.{name}", one_of(QUALITIES, name), speed))
        elif speed is not None and not (type(speed) in (int, float) and 1 <= speed < math.inf):  # false for NaN
            expected = "a speed of at least 1, or null for the default recipe"
            problems.append(Problem(f"{where}.{name}", expected, speed))
    return problems


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


def mismatches(field: str, schema: Schema, value: Any) -> list[Problem]:
    """The problem of a value that does not fit its schema; none if it fits."""
    rule = mismatch(schema, value)
    return [Problem(field, rule, value)] if rule else []


def known_key(name: Any, known: Iterable[str], elsewhere: Mapping[str, str]) -> str:
    """What to write in place of an unknown key: where it belongs, or else the known keys with the nearest one."""
    if name in elsewhere:
        return elsewhere[name]
    return one_of(sorted(known), name)


def _is_section(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(isinstance(name, str) for name in value))


def is_list_of(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether a value is a list of which each item fits."""
    return isinstance(value, list) and all(map(fits, value))
