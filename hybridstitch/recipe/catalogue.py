"""The catalogue that requests choose from: strategies, recipes and speeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hybridstitch.base.paths import SMALL_FOLDER
from hybridstitch.errors import InvalidInput, Problem, raise_problems
from hybridstitch.recipe.names import TUNED_FILE
from hybridstitch.recipe.recipe import Recipe, recipes, resolve
from hybridstitch.recipe.registry import Registry, load_registry
from hybridstitch.recipe.untuned import FASTEST, untuned_recipe

DEFAULT_SPEED = 1.83
"""Speed of requests that name neither a recipe nor a speed, on a tuned pair. It is the paper's."""
UNTUNED_DEFAULT = "front"
"""Their recipe on other pairs, at the same speed."""
MASKED = ("hybridstitch-plus", "hybridstitch")
"""Recipes with a mask, the most faithful first. Only a tuned pair has the first one."""
COST_DIGITS = 4
"""Digits of the costs that `hybridstitch tune` writes, behind the point."""


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe that `hybridstitch tune` selected on a pair.

    Attributes:
        recipe: the recipe.
        costs: for each guidance scale that it was tuned at, FLOPs of the transformers relative to the large model
            alone. A plan that depends on the picture costs differently at each scale.
        psnr_db: for the same scales, mean PSNR in dB to the large model's pictures of the calibration prompts.
        origin: the recipe or method that it derives from.
    """

    recipe: Recipe
    costs: Mapping[float, float]
    psnr_db: Mapping[float, float]
    origin: str


@dataclass(frozen=True)
class Catalogue:
    """Every strategy and recipe that a request may name.

    Args:
        strategies: for each axis, `plan`, `mask` and `fill`, the classes by name.
        recipes: by name.
        tuned: recipes found by `hybridstitch tune`, for requests that name a speed.
    """

    strategies: Registry
    recipes: Mapping[str, Recipe] = field(default_factory=recipes)
    tuned: tuple[TunedRecipe, ...] = ()

    @classmethod
    def load(cls, named: Mapping[str, Mapping[str, str]] | None = None) -> Catalogue:
        """The strategies of `load_registry` with the named recipes. Raises InvalidInput as it does."""
        return cls(load_registry(named))

    def default(self, guidance_scale: float, own_schedule: bool = False) -> Recipe:
        """The recipe of requests that name neither a recipe nor a speed.

        Args:
            guidance_scale: of the request.
            own_schedule: whether the request brings its noise levels, so that the recipe must take all steps.
        """
        if not self.tuned or own_schedule:
            return self.recipes[UNTUNED_DEFAULT]
        return self.at_speed(min(DEFAULT_SPEED, self.fastest), guidance_scale).recipe

    @property
    def masked(self) -> str:
        """The recipe of explanations of a mask that name neither a recipe nor a speed."""
        return next(name for name in MASKED if name in self.recipes)

    def of_pair(self, folder: str | Path | None) -> Catalogue:
        """This catalogue with the tuned recipes of the pair in a folder. Raises InvalidInput if there is no pair."""
        if folder is None:
            return self
        path = Path(folder, TUNED_FILE)
        if path.is_file():
            return self.with_tuned(path)
        if not Path(folder, SMALL_FOLDER).is_dir():
            raise InvalidInput([Problem("pair", f"the folder of a packed pair, with {SMALL_FOLDER}", str(folder))])
        return self

    def with_tuned(self, path: str | Path) -> Catalogue:
        """This catalogue with the recipes that `hybridstitch tune` wrote. Raises InvalidInput for another file."""
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
        """Write the tuned recipes, if there are any, into a pair's folder, where `of_pair` reads them."""
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
            raise ValueError("costs and psnr_db: expected the same guidance scales")
        return TunedRecipe(recipe, costs, decibels, point["origin"])

    def _found(self, value: Mapping[str, Any], field: str) -> Recipe:
        """A recipe of the file, under the name "tuned"."""
        return replace(self.resolve({**value, "name": "tuned"}, field), name="tuned")

    def speed_problems(self, speed: Any, field: str = "speed") -> list[Problem]:
        """What is wrong with a speed in a request."""
        fastest = self.fastest
        if type(speed) in (int, float) and 1 <= speed <= fastest:
            return []
        untuned = "" if self.tuned else ", as this pair has not been tuned (hybridstitch tune)"
        return [Problem(field, f"a number within 1..{int(100 * fastest) / 100:g}{untuned}", speed)]

    def at_speed(self, speed: float, guidance_scale: float) -> TunedRecipe:
        """The recipe of the highest fidelity among those that need at most 1 / speed of the large model's FLOPs.

        For a pair that was not tuned, a schedule that needs no calibration; its fidelity is unknown, NaN.

        Args:
            speed: at least 1, which is the large model itself.
            guidance_scale: of the request. Of the tuned scales, the nearest one counts, and recipes tuned at it.

        Raises:
            InvalidInput: for a speed above `fastest`.
        """
        raise_problems(self.speed_problems(speed))
        if not self.tuned and speed > 1:
            recipe = untuned_recipe(speed, guidance_scale)
            return TunedRecipe(recipe, {guidance_scale: 1 / speed}, {guidance_scale: math.nan}, recipe.name)
        scales = {scale for each in self.tuned for scale in each.costs} or {guidance_scale}
        nearest = min(scales, key=lambda tried: (abs(tried - guidance_scale), tried))
        large = TunedRecipe(self.recipes["large"], {nearest: 1.0}, {nearest: math.inf}, "large")
        allowed = max(1 / speed, round(1 / speed, COST_DIGITS))  # 20 of 30 steps reach 1.5, and cost 0.6667 in the file
        fast_enough = [each for each in (large, *self.tuned) if each.costs.get(nearest, math.inf) <= allowed]
        return max(fast_enough, key=lambda each: each.psnr_db[nearest])

    @property
    def fastest(self) -> float:
        """The highest speed that is available at every guidance scale."""
        if not self.tuned:
            return FASTEST
        costs: dict[float, list[float]] = {}
        for each in self.tuned:
            for scale, cost in each.costs.items():
                costs.setdefault(scale, []).append(cost)
        return min(1 / min(each) for each in costs.values())

    def resolve(self, value: Any, field: str = "recipe") -> Recipe:
        """The recipe that a request names or describes; see `hybridstitch.recipe.recipe.resolve`."""
        return resolve(value, self.strategies, self.recipes, field)

    def describe(self) -> dict[str, Any]:
        """Every recipe fully resolved, and every strategy with its parameters, as JSON."""
        described = {
            f"{axis}s": {name: strategy.describe() for name, strategy in classes.items()}
            for axis, classes in self.strategies.items()
        }
        return {
            "recipes": {name: recipe.to_dict() for name, recipe in self.recipes.items()},
            "speed": {"minimum": 1, "maximum": self.fastest, "tuned": bool(self.tuned)},
            **described,
        }


def _keyed(values: Mapping[float, float]) -> dict[str, float]:
    return {str(scale): value for scale, value in values.items()}
