"""All that a request may name: strategies, recipes, and how fast it wants to be."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hybridstitch import fills, masks, plans
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.model_files import SMALL_FOLDER
from hybridstitch.names import one_of
from hybridstitch.recipe import AXES, Recipe, TunedRecipe, recipes, step_share_problems
from hybridstitch.recipe_names import TUNED_FILE as TUNED_FILE
from hybridstitch.recipe_names import UNNAMED as UNNAMED
from hybridstitch.strategy import Strategy

DEFAULTS = ("hybridstitch-plus", "hybridstitch")
"""Of requests that name no recipe, the first one that is there: the first comes with a pair that was tuned."""
DEEPEST = 8


@dataclass(frozen=True)
class Catalogue:
    """Every strategy and recipe that a request may name.

    strategies: for each axis, `plan`, `mask` and `fill`, the classes by name.
    recipes: by name.
    tuned: those that the pair was tuned to, for requests that name a speed instead.
    """

    strategies: Mapping[str, Mapping[str, type[Strategy]]]
    recipes: Mapping[str, Recipe] = field(default_factory=recipes)
    tuned: tuple[TunedRecipe, ...] = ()

    @classmethod
    def load(cls, named: Mapping[str, Mapping[str, str]] | None = None) -> Catalogue:
        """Built-in strategies, those of installed packages, and those that the operator names.

        Packages offer theirs by entry points in the groups `hybridstitch.plans`, `hybridstitch.masks` and
        `hybridstitch.fills`. named: `{"masks": {"my-mask": "my_module:MyMask"}}`, from the server's configuration
        and never from a request. Raises InvalidInput for a path that leads to no strategy of that axis.
        """
        named = named or {}
        groups = [f"{axis}s" for axis in AXES]
        problems = [
            Problem(f"strategies.{group}", f"one of: {', '.join(groups)}", group)
            for group in named
            if group not in groups
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

    @property
    def default(self) -> str:
        """The recipe of requests that name none."""
        return next(name for name in DEFAULTS if name in self.recipes)

    def of_pair(self, folder: str | Path | None) -> Catalogue:
        """This catalogue with what the pair in a folder was tuned to, if it was. Raises InvalidInput for no pair."""
        if folder is None:
            return self
        path = Path(folder, TUNED_FILE)
        if path.is_file():
            return self.with_tuned(path)
        if not Path(folder, SMALL_FOLDER).is_dir():
            raise InvalidInput([Problem("pair", f"the folder of a packed pair, with {SMALL_FOLDER}", str(folder))])
        return self

    def with_tuned(self, path: str | Path) -> Catalogue:
        """This catalogue with what `hybridstitch tune` wrote. Raises InvalidInput for a file that makes no sense."""
        path = Path(path)
        try:
            content = json.loads(path.read_text())
            named = {
                name: replace(self._found(value, f"{TUNED_FILE}.named.{name}"), name=name)
                for name, value in content["named"].items()
            }
            tuned = tuple(self._tuned(point) for point in content["points"])
        except InvalidInput:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput([Problem(str(path), "a file that `hybridstitch tune` wrote", repr(error))]) from error
        return replace(self, recipes={**self.recipes, **named}, tuned=tuned)

    def save_tuned(self, folder: str | Path) -> None:
        """Write what `of_pair` reads into a pair's folder, if there is anything."""
        named = {name: recipe.to_dict() for name, recipe in self.recipes.items() if recipe != recipes().get(name)}
        points = [
            {"recipe": each.recipe.to_dict(), "costs": _keyed(each.costs), "psnr_db": _keyed(each.psnr_db)}
            | {"origin": each.origin}
            for each in self.tuned
        ]
        if named or points:
            Path(folder, TUNED_FILE).write_text(json.dumps({"named": named, "points": points}))

    def _tuned(self, point: Mapping[str, Any]) -> TunedRecipe:
        recipe = self._found(point["recipe"], f"{TUNED_FILE}.points")
        costs, decibels = (
            {float(scale): float(value) for scale, value in point[figure].items()} for figure in ("costs", "psnr_db")
        )
        if not costs or costs.keys() != decibels.keys():
            raise ValueError("costs and psnr_db: not of the same guidance scales")
        return TunedRecipe(recipe, costs, decibels, point["origin"])

    def _found(self, value: Mapping[str, Any], field: str) -> Recipe:
        """A recipe that is all its axes, whatever it was called where it was found."""
        return replace(self.resolve({**value, "name": "tuned"}, field), name="tuned")

    def speed_problems(self, speed: Any, field: str = "speed") -> list[Problem]:
        """What is wrong with a speed that a request names."""
        if not self.tuned:
            return [Problem(field, "nothing: this pair has not been tuned (hybridstitch tune)", speed)]
        fastest = self.fastest
        if type(speed) in (int, float) and 1 <= speed <= fastest:
            return []
        return [Problem(field, f"a number within 1..{int(100 * fastest) / 100:g}", speed)]

    def at_speed(self, speed: float, guidance_scale: float) -> TunedRecipe:
        """The most faithful recipe that needs `speed` times fewer FLOPs than the large model, or fewer still.

        1 is the large model itself. Raises InvalidInput for a pair that was not tuned, and beyond its fastest.
        """
        raise_if(self.speed_problems(speed))
        large = TunedRecipe(self.recipes["large"], {guidance_scale: 1.0}, {guidance_scale: math.inf}, "large")
        fast_enough = [each for each in (large, *self.tuned) if 1 / each.cost(guidance_scale) >= speed]
        return max(fast_enough, key=lambda each: each.fidelity(guidance_scale))

    @property
    def fastest(self) -> float:
        """The highest speed that is there at every guidance scale."""
        scales = {scale for each in self.tuned for scale in each.costs}
        return min(max(1 / each.cost(scale) for each in self.tuned) for scale in scales)

    def resolve(self, value: Any, field: str = "recipe") -> Recipe:
        """The recipe that a request names or describes.

        value: a name; or an object `{"name"?, "plan"?, "mask"?, "fill"?, "step_share"?}` that starts from the recipe
        of that name and replaces whole axes, each `{"type": …, parameters}`, or single parameters of an axis if it
        gives no type. Without a name, the plan is required. Raises InvalidInput that names every wrong field.
        """
        if isinstance(value, Recipe):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            raise InvalidInput([Problem(field, "a name or an object", value)])
        known = ("name", *AXES, "step_share")
        problems = [Problem(f"{field}.{key}", one_of(known, key), value[key]) for key in value if key not in known]
        base = self._base(value, field, problems)
        chosen: dict[str, Any] = {}
        for axis in AXES:
            if axis in value:
                try:
                    chosen[axis] = self.strategy(axis, value[axis], f"{field}.{axis}", base)
                except InvalidInput as error:
                    problems.extend(error.problems)
        if "step_share" in value:
            chosen["step_share"] = value["step_share"]
            problems.extend(step_share_problems(value["step_share"], f"{field}.step_share"))
        raise_if(problems)
        if base is None:
            return Recipe(**chosen, name=value.get("name") or "custom")
        return replace(base, **chosen, name=base.name if replace(base, **chosen) == base else "custom")

    def describe(self) -> dict[str, Any]:
        """Every recipe fully resolved, and every strategy with its parameters: JSON for people and programs."""
        described = {
            f"{axis}s": {name: strategy.describe() for name, strategy in classes.items()}
            for axis, classes in self.strategies.items()
        }
        return {
            "recipes": {name: recipe.to_dict() for name, recipe in self.recipes.items()},
            "speed": {"minimum": 1, "maximum": self.fastest} if self.tuned else None,
            **described,
        }

    def _base(self, value: Mapping[str, Any], field: str, problems: list[Problem]) -> Recipe | None:
        name = value.get("name")
        if name is None or name in UNNAMED:
            if "plan" not in value:
                problems.append(Problem(f"{field}.plan", "a plan, as no recipe is named", None))
            return None
        if not isinstance(name, str) or name not in self.recipes:
            where = f"{field}.name" if len(value) > 1 else field
            problems.append(Problem(where, one_of(self.recipes, name), name))
            return None
        return self.recipes[name]

    def strategy(self, axis: str, value: Any, field: str, base: Recipe | None = None) -> Strategy:
        """The `plan`, `mask` or `fill` that a request names or describes; without a type, `base`'s, changed.

        Raises InvalidInput that names every wrong field.
        """
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping):
            raise InvalidInput([Problem(field, "a name or an object", value)])
        parameters = dict(value)
        name = parameters.pop("type", None)
        if name is None and base is not None:
            parameters = getattr(base, axis).to_dict() | parameters
            name = parameters.pop("type")
        if field.count(".") > DEEPEST:
            raise InvalidInput([Problem(field, f"strategies within each other at most {DEEPEST} deep", name)])
        classes = self.strategies[axis]
        if not isinstance(name, str) or name not in classes:
            raise InvalidInput([Problem(f"{field}.type", one_of(classes, name), name)])
        return classes[name].build(parameters, field, lambda wrapped, where: self.strategy(axis, wrapped, where))


def _keyed(values: Mapping[float, float]) -> dict[str, float]:
    return {str(scale): value for scale, value in values.items()}


def _import_strategy(axis: str, name: str, path: str) -> type[Strategy]:
    """The class at `package.module:Class`, which requests call `name`."""
    where, base = f"strategies.{axis}s.{name}", AXES[axis]
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever the operator's module raises, the answer names it
        reason = f"it exits, {error}" if isinstance(error, SystemExit) else str(error)
        if isinstance(error, ModuleNotFoundError):
            reason += "; --extra-module packs a file"
        raise InvalidInput([Problem(where, f"module:Class that can be imported ({reason})", path)]) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InvalidInput([Problem(where, f"a subclass of {base.__name__}", path)])
    if getattr(found, "type", None) != name:
        raise InvalidInput([Problem(where, f"the class's own `type`, {getattr(found, 'type', None)!r}", name)])
    return found
