"""The strategy classes by axis and name, and the construction of a strategy from its description."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from hybridstitch import fills, masks, plans
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.fills import Fill
from hybridstitch.masks import MaskStrategy
from hybridstitch.plans import Plan
from hybridstitch.strategy import Strategy

BASES: dict[str, type[Strategy]] = {"plan": Plan, "mask": MaskStrategy, "fill": Fill}
"""The base class of each axis."""
DEEPEST = 8
"""Most levels of nested strategies."""
Registry = Mapping[str, Mapping[str, type[Strategy]]]
"""For each axis the classes by the name in requests."""


def load_registry(named: Mapping[str, Mapping[str, str]] | None = None) -> Registry:
    """The built-in strategies, those of installed packages, and those that the operator names.

    Packages offer strategies by entry points in the groups `hybridstitch.plans`, `hybridstitch.masks` and
    `hybridstitch.fills`.

    Args:
        named: `{"masks": {"my-mask": "my_module:MyMask"}}`, from the server's configuration and never from a request.

    Raises:
        InvalidInput: for a path that leads to no strategy of its axis.
    """
    named = named or {}
    groups = [f"{axis}s" for axis in BASES]
    problems = [
        Problem(f"strategies.{group}", f"one of: {', '.join(groups)}", group) for group in named if group not in groups
    ]
    registry: dict[str, dict[str, type[Strategy]]] = {}
    for axis, module in zip(BASES, (plans, masks, fills), strict=True):
        group = f"{axis}s"
        paths = {point.name: point.value for point in entry_points(group=f"hybridstitch.{group}")}
        registry[axis] = {built_in.type: built_in for built_in in module.BUILT_IN}
        for name, path in (paths | dict(named.get(group, {}))).items():
            try:
                registry[axis][name] = _import_strategy(axis, name, path)
            except InvalidInput as error:
                problems.extend(error.problems)
    raise_problems(problems)
    return registry


def build_strategy(registry: Registry, axis: str, value: Any, field: str, base: Strategy | None = None) -> Strategy:
    """The plan, mask or fill that a request names or describes.

    Args:
        registry: the strategies by axis and name.
        axis: `plan`, `mask` or `fill`.
        value: a name, or an object of a type and its parameters.
        field: name of the field in error messages.
        base: the strategy whose parameters are replaced if `value` has no type.

    Raises:
        InvalidInput: names every wrong field.
    """
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        raise InvalidInput([Problem(field, "a name or an object", value)])
    parameters = dict(value)
    name = parameters.pop("type", None)
    if name is None and base is not None:
        parameters = base.to_dict() | parameters
        name = parameters.pop("type")
    if field.count(".") > DEEPEST:
        raise InvalidInput([Problem(field, f"at most {DEEPEST} nested strategies", name)])
    classes = registry[axis]
    if not isinstance(name, str) or name not in classes:
        raise InvalidInput([Problem(f"{field}.type", one_of(classes, name), name)])
    return classes[name].build(parameters, field, lambda wrapped, where: build_strategy(registry, axis, wrapped, where))


def _import_strategy(axis: str, name: str, path: str) -> type[Strategy]:
    """The class at `package.module:Class`, registered under `name`."""
    where, base = f"strategies.{axis}s.{name}", BASES[axis]
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # the operator's module raises anything; the message names it
        reason = f"it exits, {error}" if isinstance(error, SystemExit) else str(error)
        if isinstance(error, ModuleNotFoundError):
            reason += "; --extra-module packs a file"
        raise InvalidInput([Problem(where, f"module:Class that can be imported ({reason})", path)]) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InvalidInput([Problem(where, f"a subclass of {base.__name__}", path)])
    if getattr(found, "type", None) != name:
        raise InvalidInput([Problem(where, f"the class's own `type`, {getattr(found, 'type', None)!r}", name)])
    return found
