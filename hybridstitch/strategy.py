"""The base of plans, masks and fills: parameters that are declared once, validated and described.

A strategy's `__init__` only stores its parameters; a frozen dataclass is the shortest form. Ranges stand beside the
types, `share: Annotated[float, Range(0, 1)] = 0.3`. From them follow the validation of a request, the error that
names the field, and the description that the server publishes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from inspect import isclass
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

from hybridstitch.base.schema import plain
from hybridstitch.base.suggestions import one_of
from hybridstitch.errors import InvalidInput, Problem, raise_problems


@dataclass(frozen=True)
class Range:
    """The range of a number, ends included."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"within {self.low:g}..{self.high:g}"


LONGEST = 10_000
"""Numbers in a list, at most: enough for the weights of fill `fitted` for 1000 steps at two guidance scales, or 100
at 25; few enough that a request cannot fill the memory."""
_WORDS: dict[type, str] = {
    float: "a number",
    int: "an integer",
    bool: "true or false",
    str: "a string",
    tuple: f"a list (in Python a tuple) of up to {LONGEST} numbers",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a strategy, as its `__init__` declares it."""

    name: str
    type: type
    default: Any
    range: Range | None

    @property
    def nested(self) -> bool:
        """Whether the value is a strategy, as in a wrapper."""
        return issubclass(self.type, Strategy)

    @property
    def expected(self) -> str:
        """What an error message expects here."""
        word = "a strategy" if self.nested else _WORDS[self.type]
        return f"{word} {self.range}" if self.range else word

    def accepts(self, value: Any) -> bool:
        """Whether `value` has the declared type and lies in the range.

        numpy's numbers count as numbers; a bool and NaN do not.
        """
        value = plain(value)
        if self.type is tuple:
            number = replace(self, type=float)
            return isinstance(value, tuple) and 0 < len(value) <= LONGEST and all(map(number.accepts, value))
        if self.type in (int, float):
            kinds = (int,) if self.type is int else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                return False
            if not abs(value) <= sys.float_info.max:  # infinite, NaN, or an integer that no float holds
                return False
            return self.range is None or self.range.low <= value <= self.range.high
        return isinstance(value, self.type)

    def describe(self) -> dict[str, Any]:
        """The JSON form: `type`, and `default`, `minimum` and `maximum` where there are any."""
        kind = "strategy" if self.nested else "list of float" if self.type is tuple else self.type.__name__
        described: dict[str, Any] = {"type": kind}
        if self.default is not inspect.Parameter.empty:
            described["default"] = _plain(self.default)
        if self.range:
            described |= {"minimum": self.range.low, "maximum": self.range.high}
        return described


def _plain(value: Any) -> Any:
    """The JSON form of a parameter value."""
    if isinstance(value, Strategy):
        return value.to_dict()
    return [plain(each) for each in value] if isinstance(value, tuple) else plain(value)


Nested = Callable[[Any, str], "Strategy"]
"""Builds a wrapped strategy from its description and the name of its field; raises InvalidInput."""


def _hints(cls: type) -> dict[str, Any]:
    """The types of the parameters of `__init__`, each resolved in the module that declares it."""
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    # A dataclass's `__init__` takes fields of its bases, whose types are names in their own modules.
    return get_type_hints(
        owner if "__dataclass_fields__" in vars(owner) else vars(owner)["__init__"], include_extras=True
    )


class Strategy:
    """Base of `Plan`, `MaskStrategy` and `Fill`.

    A strategy is shared between requests, so it holds no state of a picture. Every call gets the state of the
    generation as a `Trajectory`.
    """

    type: ClassVar[str]
    """The name that requests and recipes use."""

    def __post_init__(self) -> None:
        """Convert numpy's numbers to Python's, whose arithmetic has more digits."""
        for each in fields(self):  # type: ignore[arg-type]  # a dataclass calls this
            value = getattr(self, each.name)
            kept = tuple(map(plain, value)) if isinstance(value, tuple) else plain(value)
            object.__setattr__(self, each.name, kept)  # most strategies are frozen

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        """The parameters of `__init__`, by name.

        Raises:
            TypeError: for another type than int, float, bool, str, `tuple[float, ...]` and a strategy.
        """
        hints = _hints(cls)
        found = {}
        for name, declared in inspect.signature(cls).parameters.items():
            kind, limits = hints.get(name, Any), None
            if get_origin(kind) is Annotated:
                kind, *notes = get_args(kind)
                limits = next((note for note in notes if isinstance(note, Range)), None)
            kind = tuple if kind == tuple[float, ...] else kind
            if kind not in (int, float, bool, str, tuple) and not (isclass(kind) and issubclass(kind, Strategy)):
                raise TypeError(f"{cls.__name__}.{name}: a parameter is a number, bool, str or strategy, not {kind}")
            found[name] = Parameter(name, kind, declared.default, limits)
        return found

    @classmethod
    def build(cls, values: Mapping[str, Any], field: str, nested: Nested | None = None) -> Self:
        """The strategy with these parameters.

        Args:
            values: parameters by name; None stands for the default.
            field: name of the field in error messages.
            nested: builds the strategies that this one wraps.

        Raises:
            InvalidInput: names every wrong parameter under `field`.
        """
        known = cls.parameters()
        values = {name: value for name, value in values.items() if value is not None or name not in known}
        problems = [
            Problem(f"{field}.{name}", one_of(known, name) if known else "no parameters", value)
            for name, value in values.items()
            if name not in known
        ]
        problems += [
            Problem(f"{field}.{name}", parameter.expected, None)
            for name, parameter in known.items()
            if parameter.default is inspect.Parameter.empty and name not in values
        ]
        chosen: dict[str, Any] = {}
        for name in (name for name in values if name in known):
            value, parameter = values[name], known[name]
            try:
                if parameter.nested and nested and not isinstance(value, Strategy):
                    value = nested(value, f"{field}.{name}")
                chosen[name] = tuple(value) if parameter.type is tuple and isinstance(value, list) else value
                if not parameter.accepts(chosen[name]):
                    problems.append(Problem(f"{field}.{name}", parameter.expected, value))
            except InvalidInput as error:
                problems.extend(error.problems)
        raise_problems(problems)
        strategy = cls(**chosen)
        raise_problems(strategy.problems(field))
        return strategy

    def problems(self, field: str) -> list[Problem]:
        """Every wrong parameter, named under `field`. Override it to add checks across parameters."""
        found: list[Problem] = []
        for name, parameter in self.parameters().items():
            value = getattr(self, name)
            if not parameter.accepts(value):
                found.append(Problem(f"{field}.{name}", parameter.expected, value))
            elif parameter.nested:
                found += value.problems(f"{field}.{name}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """`{"type": …, parameters}`, the description from which a request gets this strategy."""
        return {"type": self.type} | {name: _plain(getattr(self, name)) for name in self.parameters()}

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """The first line of the docstring, and every parameter with type, default and range."""
        return {
            "summary": (inspect.getdoc(cls) or "").split("\n", 1)[0],
            "parameters": {name: parameter.describe() for name, parameter in cls.parameters().items()},
        }
