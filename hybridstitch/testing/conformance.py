"""Conformance tests for strategies, built-in ones and yours.

Inherit the class of your axis, name it `Test…`, and return your strategy from `make`:

    from hybridstitch.testing.conformance import MaskConformance

    class TestCentreFirst(MaskConformance):
        def make(self):
            return CentreFirst()

pytest then checks what the loop relies on, with real SD3 transformers of toy size and random weights.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from functools import partial
from typing import Generic, TypeVar

import pytest
import torch

from hybridstitch import masks, plans
from hybridstitch.errors import InvalidInput
from hybridstitch.fills import Fill
from hybridstitch.masks import MaskStrategy
from hybridstitch.plans import Plan
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.recipe.registry import BASES, build_strategy, load_registry
from hybridstitch.strategy import Strategy
from hybridstitch.testing.toys import TinyPair

Tested = TypeVar("Tested", bound=Strategy)

GRIDS = [(6, 6), (3, 8)]
"""Token grids of the tests: a square one and a rectangular one."""


class StrategyConformance(Generic[Tested]):
    """What every strategy provides: parameters that are stored, described, validated, and restored from JSON."""

    def make(self) -> Tested:
        """Return the strategy under test. Every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__}.make: expected a method that returns the strategy under test")

    @abstractmethod
    def recipe(self) -> Recipe:
        """Return a recipe that uses the strategy."""

    @pytest.fixture
    def pair(self) -> TinyPair:
        return TinyPair()

    def test_comes_back_from_its_description(self) -> None:
        strategy = self.make()
        described = json.loads(json.dumps(strategy.to_dict()))
        assert described.pop("type") == strategy.type
        axis = next(name for name, base in BASES.items() if isinstance(strategy, base))
        built = type(strategy).build(described, "strategy", partial(build_strategy, load_registry(), axis))
        assert built.to_dict() == strategy.to_dict()

    def test_describes_itself(self) -> None:
        described = json.loads(json.dumps(type(self.make()).describe()))
        assert described["summary"], "the docstring's first line is what people read first"
        assert set(described["parameters"]) == set(self.make().to_dict()) - {"type"}

    def test_refuses_unknown_parameters_by_name(self) -> None:
        with pytest.raises(InvalidInput, match=r"strategy\.no_such_parameter"):
            type(self.make()).build({"no_such_parameter": 1}, "strategy")

    def test_has_no_problem_with_itself(self) -> None:
        assert self.make().problems("strategy") == []

    @pytest.mark.parametrize("grid", GRIDS)
    def test_generates_the_same_picture_twice(self, pair: TinyPair, grid: tuple[int, int]) -> None:
        """Also checks that no state remains from one generation to the next."""
        recipe = self.recipe()
        first = pair.generate(recipe, grid, [0])[-1].latents
        pair.generate(recipe, (4, 5), [1, 2])
        again = pair.generate(recipe, grid, [0])[-1].latents
        assert torch.isfinite(first).all()
        assert torch.equal(first, again)

    @pytest.mark.parametrize("grid", GRIDS)
    def test_a_picture_does_not_depend_on_its_batch(self, pair: TinyPair, grid: tuple[int, int]) -> None:
        recipe = self.recipe()
        batch = pair.generate(recipe, grid, [0, 1, 2])[-1].latents
        moved = pair.generate(recipe, grid, [2, 0, 1])[-1].latents
        alone = pair.generate(recipe, grid, [1])[-1].latents
        torch.testing.assert_close(moved[[1, 2, 0]], batch, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(alone[0], batch[1], rtol=1e-3, atol=1e-3)


class MaskConformance(StrategyConformance[MaskStrategy]):
    """What the loop expects of a `MaskStrategy`."""

    def recipe(self) -> Recipe:
        return Recipe(plans.Staged(large=0.4, hybrid=0.4, share=0.3), self.make())

    @pytest.mark.parametrize("grid", GRIDS)
    def test_scores_every_token(self, pair: TinyPair, grid: tuple[int, int]) -> None:
        with pair.trajectory(grid, [0, 1]) as trajectory:
            scores = self.make().scores(trajectory)
        assert scores.shape == (2, grid[0] * grid[1])
        assert torch.isfinite(scores).all()

    @pytest.mark.parametrize("grid", GRIDS)
    def test_scores_pictures_one_by_one(self, pair: TinyPair, grid: tuple[int, int]) -> None:
        with pair.trajectory(grid, [0, 1]) as batch, pair.trajectory(grid, [1]) as alone:
            together, single = self.make().scores(batch), self.make().scores(alone)
        torch.testing.assert_close(together[1:], single, rtol=1e-3, atol=1e-3)

    def test_counts_tokens_within_the_picture(self) -> None:
        counts = [self.make().count(share, 24) for share in (0.001, 0.3, 0.999)]
        assert counts == sorted(counts)
        assert all(1 <= count <= 24 for count in counts)

    def test_needs_no_more_dense_steps_than_it_declares(self, pair: TinyPair) -> None:
        """Also checks that the tokens change only at a refresh."""
        mask = self.make()
        done = pair.generate(Recipe(plans.Staged(large=0, hybrid=1, share=0.3), mask), (3, 4), [0])
        masked = [step.tokens for step in done if step.tokens is not None]
        assert len(done) - len(masked) == mask.dense_steps < len(done)
        for index, tokens in enumerate(masked):
            assert tokens.shape == (1, mask.count(0.3, 12))
            if index % (mask.refresh or len(masked)):
                assert torch.equal(tokens, masked[index - 1])


class PlanConformance(StrategyConformance[Plan]):
    """What the loop expects of a `Plan`."""

    def recipe(self) -> Recipe:
        return Recipe(self.make(), masks.Random())

    @pytest.mark.parametrize("steps", [1, 2, 7, 28])
    def test_shares_are_shares(self, pair: TinyPair, steps: int) -> None:
        shares = [step.share for step in pair.generate(self.recipe(), (3, 4), [0], steps)]
        assert len(shares) == steps
        assert all(0 <= share <= 1 for share in shares)

    def test_declares_whether_it_needs_a_mask(self, pair: TinyPair) -> None:
        partial = any(step.tokens is not None for step in pair.generate(self.recipe(), (6, 6), [0], 28))
        assert self.make().masked or not partial


class FillConformance(StrategyConformance[Fill]):
    """What the loop expects of a `Fill`."""

    def recipe(self) -> Recipe:
        return Recipe(plans.Staged(large=0.4, hybrid=0.4, share=0.3), masks.Random(), self.make())

    @pytest.mark.parametrize("grid", GRIDS)
    def test_predicts_every_token(self, pair: TinyPair, grid: tuple[int, int]) -> None:
        with pair.trajectory(grid, [0, 1]) as trajectory:
            velocity = self.make().velocity(trajectory)
            assert velocity.shape == trajectory.dense[-1][1].shape
        assert torch.isfinite(velocity).all()

    @pytest.mark.parametrize("mask", [None, masks.Random(), masks.All()], ids=str)
    def test_needs_no_more_dense_steps_than_it_declares(self, pair: TinyPair, mask: MaskStrategy | None) -> None:
        """Also checks no mask, a mask on some tokens and a mask on all tokens."""
        fill = self.make()
        plan = plans.Staged(large=0, hybrid=1, share=0.3) if mask else plans.NoSteps()
        done = pair.generate(Recipe(plan, mask or masks.Random(), fill), (3, 4), [0, 1])
        dense = [step.share == 1 and step.tokens is None for step in done]
        needed = max(fill.dense_steps, mask.dense_steps if mask else 0)
        assert dense == [True] * needed + [False] * (len(done) - needed)
        assert all(torch.isfinite(step.latents).all() for step in done)
