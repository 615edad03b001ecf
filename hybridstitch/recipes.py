"""Recipes: a plan, a mask and a fill under one name; and the catalogue of all that a request may name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import Any

from hybridstitch import fills, masks, plans
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.fills import Fill
from hybridstitch.masks import MaskStrategy
from hybridstitch.plans import Plan
from hybridstitch.strategy import Strategy

AXES: dict[str, type[Strategy]] = {"plan": Plan, "mask": MaskStrategy, "fill": Fill}


@dataclass(frozen=True)
class Recipe:
    """When, where and what: a method of stitching two models. Raises InvalidInput for parameters out of range.

    plan: the share of the image tokens that the large model renders at each step.
    mask: which tokens those are, at steps with a share between 0 and 1.
    fill: who predicts the others.
    """

    plan: Plan
    mask: MaskStrategy = field(default_factory=masks.VelocityChange)
    fill: Fill = field(default_factory=fills.Small)
    name: str = "custom"

    def __post_init__(self) -> None:
        raise_if([problem for axis in AXES for problem in getattr(self, axis).problems(f"recipe.{axis}")])

    def to_dict(self) -> dict[str, Any]:
        """The name, and every axis with its type and all its parameters: `Recipe.from_dict` reads it back."""
        return {"name": self.name} | {axis: getattr(self, axis).to_dict() for axis in AXES}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], catalogue: Catalogue | None = None) -> Recipe:
        """The recipe that `value` describes, see `Catalogue.resolve`."""
        return (catalogue or Catalogue.load()).resolve(dict(value))


NAMED = (
    Recipe(plans.AllSteps(), masks.All(), name="large"),
    Recipe(plans.NoSteps(), masks.All(), name="small"),
    Recipe(plans.SmallFirst(), masks.All(), name="t-stitch"),
    Recipe(plans.Staged(large=0.3, hybrid=0.0), name="srdiffusion"),
    Recipe(plans.Staged(), name="hybridstitch"),
)


def recipes() -> dict[str, Recipe]:
    """The named recipes."""
    return {recipe.name: recipe for recipe in NAMED}


@dataclass(frozen=True)
class Catalogue:
    """Every strategy and recipe that a request may name.

    strategies: for each axis, `plan`, `mask` and `fill`, the classes by name.
    """

    strategies: Mapping[str, Mapping[str, type[Strategy]]]

    @classmethod
    def load(cls, named: Mapping[str, Mapping[str, str]] | None = None) -> Catalogue:
        """Built-in strategies, those of installed packages, and those that the operator names.

        Packages offer theirs by entry points in the groups `hybridstitch.plans`, `hybridstitch.masks` and
        `hybridstitch.fills`. named: `{"masks": {"my-mask": "my_module:MyMask"}}`, from the server's configuration
        and never from a request. Raises InvalidInput for a path that leads to no strategy of that axis.
        """
        named = named or {}
        problems = [
            Problem(f"strategies.{group}", "one of: " + ", ".join(f"{axis}s" for axis in AXES), group)
            for group in named
            if group.removesuffix("s") not in AXES
        ]
        strategies: dict[str, dict[str, type[Strategy]]] = {}
        for axis, module in zip(AXES, (plans, masks, fills), strict=True):
            group = f"{axis}s"
            paths = {point.name: point.value for point in entry_points(group=f"hybridstitch.{group}")}
            strategies[axis] = {built_in.type: built_in for built_in in module.BUILT_IN}
            for name, path in (paths | dict(named.get(group, {}))).items():
                try:
                    strategies[axis][name] = _import_strategy(axis, name, path)
                except InvalidInput as error:
                    problems.extend(error.problems)
        raise_if(problems)
        return cls(strategies)

    def resolve(self, value: Any, field: str = "recipe") -> Recipe:
        """The recipe that a request names or describes.

        value: a name; or an object `{"name"?, "plan"?, "mask"?, "fill"?}` that starts from the recipe of that name
        and replaces whole axes, each `{"type": …, parameters}`, or single parameters of an axis if it gives no
        type. Without a name, the plan is required. Raises InvalidInput that names every wrong field.
        """
        if isinstance(value, Recipe):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            raise InvalidInput([Problem(field, "a name or an object", value)])
        problems = [
            Problem(f"{field}.{key}", "one of: name, " + ", ".join(AXES), value[key])
            for key in value
            if key not in ("name", *AXES)
        ]
        base = self._base(value, field, problems)
        chosen: dict[str, Any] = {}
        for axis in AXES:
            if axis in value:
                try:
                    chosen[axis] = self._strategy(axis, value[axis], base, f"{field}.{axis}")
                except InvalidInput as error:
                    problems.extend(error.problems)
        raise_if(problems)
        if base is None:
            return Recipe(**chosen)
        return replace(base, **chosen, name=base.name if replace(base, **chosen) == base else "custom")

    def describe(self) -> dict[str, Any]:
        """Every recipe fully resolved, and every strategy with its parameters: JSON for people and programs."""
        described = {
            f"{axis}s": {name: strategy.describe() for name, strategy in classes.items()}
            for axis, classes in self.strategies.items()
        }
        return {"recipes": {name: recipe.to_dict() for name, recipe in recipes().items()}, **described}

    def _base(self, value: Mapping[str, Any], field: str, problems: list[Problem]) -> Recipe | None:
        name = value.get("name")
        if name is None or name == "custom":
            if "plan" not in value:
                problems.append(Problem(f"{field}.plan", "a plan, as no recipe is named", "nothing"))
            return None
        if not isinstance(name, str) or name not in recipes():
            where = f"{field}.name" if len(value) > 1 else field
            problems.append(Problem(where, "one of: " + ", ".join(recipes()), name))
            return None
        return recipes()[name]

    def _strategy(self, axis: str, value: Any, base: Recipe | None, field: str) -> Strategy:
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping):
            raise InvalidInput([Problem(field, "a name or an object", value)])
        parameters = dict(value)
        name = parameters.pop("type", None)
        if name is None and base is not None:
            parameters = getattr(base, axis).to_dict() | parameters
            name = parameters.pop("type")
        classes = self.strategies[axis]
        if not isinstance(name, str) or name not in classes:
            raise InvalidInput([Problem(f"{field}.type", "one of: " + ", ".join(classes), name)])
        return classes[name].build(parameters, field)


def _import_strategy(axis: str, name: str, path: str) -> type[Strategy]:
    """The class at `package.module:Class`, which requests call `name`."""
    where, base = f"strategies.{axis}s.{name}", AXES[axis]
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the operator's module raises, the answer names it
        raise InvalidInput([Problem(where, f"module:Class that can be imported ({error})", path)]) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InvalidInput([Problem(where, f"a subclass of {base.__name__}", path)])
    if getattr(found, "type", None) != name:
        raise InvalidInput([Problem(where, f"the class's own `type`, {getattr(found, 'type', None)!r}", name)])
    return found
