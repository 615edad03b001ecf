"""What plans, masks and fills have in common: parameters that are stored, checked in one place, and described.

A strategy's `__init__` only stores its parameters (a frozen dataclass is the shortest way). Ranges are written
beside the types, `share: Annotated[float, Between(0, 1)] = 0.3`, and everything else follows from them: the check
of a request, the error that names the field, and the description that the server gives of itself.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

from hybridstitch.errors import Problem, raise_if


@dataclass(frozen=True)
class Between:
    """The range of a number, ends included."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"between {self.low:g} and {self.high:g}"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a strategy, as its `__init__` declares it."""

    name: str
    type: type
    default: Any
    range: Between | None

    @property
    def expected(self) -> str:
        """The words an error uses for what may stand here."""
        kind = {float: "a number", int: "an integer", bool: "true or false", str: "a string"}[self.type]
        return f"{kind} {self.range}" if self.range else kind

    def accepts(self, value: Any) -> bool:
        """Whether `value` has the declared type and lies in the range. A bool is no number, NaN is nothing."""
        if self.type in (int, float):
            kinds = (int,) if self.type is int else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                return False
            if isinstance(value, float) and not math.isfinite(value):
                return False
            return self.range is None or self.range.low <= value <= self.range.high
        return isinstance(value, self.type)

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {"type": self.type.__name__}
        if self.default is not inspect.Parameter.empty:
            described["default"] = self.default
        if self.range:
            described |= {"minimum": self.range.low, "maximum": self.range.high}
        return described


class Strategy:
    """Base of `Plan`, `MaskStrategy` and `Fill`.

    A strategy is shared between requests and holds no state of a picture: what happened so far is handed to it
    with every call, in the `Trajectory`.
    """

    type: ClassVar[str]
    """The name that requests and recipes use."""

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        """The parameters of `__init__`, by name: int, float, bool or str. Raises TypeError for any other."""
        hints = get_type_hints(cls.__init__, include_extras=True)
        found = {}
        for name, declared in inspect.signature(cls).parameters.items():
            kind, limits = hints.get(name, Any), None
            if get_origin(kind) is Annotated:
                kind, *notes = get_args(kind)
                limits = next((note for note in notes if isinstance(note, Between)), None)
            if kind not in (int, float, bool, str):
                raise TypeError(f"{cls.__name__}.{name}: a parameter is an int, float, bool or str, not {kind}")
            found[name] = Parameter(name, kind, declared.default, limits)
        return found

    @classmethod
    def build(cls, values: Mapping[str, Any], field: str) -> Self:
        """The strategy with these parameters. Raises InvalidInput that names every wrong one under `field`."""
        known = cls.parameters()
        names = ", ".join(known) or "no parameters"
        problems = [
            Problem(f"{field}.{name}", f"one of: {names}", value) for name, value in values.items() if name not in known
        ]
        problems += [
            Problem(f"{field}.{name}", parameter.expected, "nothing")
            for name, parameter in known.items()
            if parameter.default is inspect.Parameter.empty and name not in values
        ]
        wrong = [
            Problem(f"{field}.{name}", known[name].expected, value)
            for name, value in values.items()
            if name in known and not known[name].accepts(value)
        ]
        raise_if(problems + wrong)
        strategy = cls(**values)
        raise_if(strategy.problems(field))
        return strategy

    def problems(self, field: str) -> list[Problem]:
        """Every wrong parameter, named under `field`. Override to add checks between parameters."""
        values = self.to_dict()
        return [
            Problem(f"{field}.{name}", parameter.expected, values[name])
            for name, parameter in self.parameters().items()
            if not parameter.accepts(values[name])
        ]

    def to_dict(self) -> dict[str, Any]:
        """`{"type": …, parameters}`: what a request would say to get this strategy."""
        return {"type": self.type} | {name: getattr(self, name) for name in self.parameters()}

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """The first line of the docstring and every parameter with type, default and range."""
        return {
            "summary": (inspect.getdoc(cls) or "").split("\n", 1)[0],
            "parameters": {name: parameter.describe() for name, parameter in cls.parameters().items()},
        }
