"""Conformance tests for strategies, the built-in ones and yours.

Inherit the class of your axis, name it `Test…`, and say how to make the strategy:

    from hybridstitch.testing import MaskConformance

    class TestCentreFirst(MaskConformance):
        def make(self):
            return CentreFirst()

pytest then checks what the loop relies on, with real SD3 transformers of toy size and random weights.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor

from hybridstitch import masks, plans
from hybridstitch.errors import InvalidInput
from hybridstitch.fills import Fill
from hybridstitch.guidance import GuidedModel
from hybridstitch.masks import MaskStrategy
from hybridstitch.mmdit import cached_attention, unpatchify
from hybridstitch.plans import Plan
from hybridstitch.recipes import Recipe
from hybridstitch.sampler import Step, sample
from hybridstitch.strategy import Strategy
from hybridstitch.trajectory import Point, Trajectory

LAYOUTS: dict[str, dict[str, Any]] = {
    "sd3": {"qk_norm": None},
    "sd35-large": {"qk_norm": "rms_norm"},
    "sd35-medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
}
"""What tells the transformers of SD3, SD3.5-Large and SD3.5-Medium apart, besides their size."""

GRIDS = [(6, 6), (3, 8)]
"""Token grids that the conformance tests use: a square one and one that is not."""


def tiny_transformer(
    layout: str, layers: int = 3, heads: int = 2, seed: int = 0, **config: Any
) -> SD3Transformer2DModel:
    """A real SD3 transformer of toy size; every weight is random, those that training would start at zero included."""
    sizes = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": layers,
        "attention_head_dim": 8,
        "num_attention_heads": heads,
        "joint_attention_dim": 32,
        "caption_projection_dim": 8 * heads,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 12,
    }
    transformer = SD3Transformer2DModel(**(sizes | LAYOUTS[layout] | config))
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.2 + (parameter == 1))
    return transformer.eval()


class TinyPair:
    """A large and a small transformer of toy size, with a random prompt and noise for every picture number."""

    def __init__(self, large: str = "sd35-large", small: str = "sd35-medium"):
        self.large = tiny_transformer(large)
        self.small = tiny_transformer(small, layers=2, seed=1)

    @contextmanager
    def trajectory(self, grid: tuple[int, int], pictures: list[int]) -> Iterator[Trajectory]:
        """A batch of these pictures before step 2 of 10, after two dense steps of the large model."""
        large, small = self._models(pictures)
        scheduler = _scheduler(10)
        trajectory = Trajectory(grid, 10, small)
        latents = self._latents(grid, pictures)
        with torch.no_grad(), cached_attention(self.large), cached_attention(self.small):
            for index, timestep in enumerate(scheduler.timesteps[:3]):
                trajectory.move_to(Point(index, timestep, float(scheduler.sigmas[index]), latents))
                if index < 2:
                    velocity = large(latents, timestep)
                    trajectory.record_dense(velocity)
                    latents = scheduler.step(unpatchify(velocity, grid, 2), timestep, latents, return_dict=False)[0]
            yield trajectory

    def generate(self, recipe: Recipe, grid: tuple[int, int], pictures: list[int], steps: int = 6) -> list[Step]:
        """Run the real loop on a batch of these pictures; what each step did."""
        large, small = self._models(pictures)
        done: list[Step] = []
        with torch.no_grad(), cached_attention(self.large), cached_attention(self.small):
            sample(self._latents(grid, pictures), _scheduler(steps), large, small, recipe, done.append)
        return done

    def _models(self, pictures: list[int]) -> tuple[GuidedModel, GuidedModel]:
        context, pooled = _noise((5, 32), pictures), _noise((32,), pictures)
        context, pooled = torch.cat([-context, context]), torch.cat([-pooled, pooled])
        return GuidedModel(self.large, context, pooled, 3.0, True), GuidedModel(self.small, context, pooled, 3.0, False)

    def _latents(self, grid: tuple[int, int], pictures: list[int]) -> Tensor:
        return _noise((4, 2 * grid[0], 2 * grid[1]), pictures)


class StrategyConformance:
    """What every strategy owes: parameters that are stored, described, checked, and come back from JSON."""

    @abstractmethod
    def make(self) -> Strategy:
        """The strategy under test."""

    @abstractmethod
    def recipe(self) -> Recipe:
        """A recipe that uses it."""

    @pytest.fixture
    def pair(self) -> TinyPair:
        return TinyPair()

    def test_comes_back_from_its_description(self) -> None:
        strategy = self.make()
        described = json.loads(json.dumps(strategy.to_dict()))
        assert described.pop("type") == strategy.type
        assert type(strategy).build(described, "strategy").to_dict() == strategy.to_dict()

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
    def test_draws_the_same_picture_twice(self, pair: TinyPair, grid: tuple[int, int]) -> None:
        """Also: nothing is left over from one generation for the next."""
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


class MaskConformance(StrategyConformance):
    """What the loop expects of a `MaskStrategy`."""

    @abstractmethod
    def make(self) -> MaskStrategy: ...

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

    def test_says_how_many_dense_steps_it_needs(self) -> None:
        assert self.make().dense_steps in (1, 2)


class PlanConformance(StrategyConformance):
    """What the loop expects of a `Plan`."""

    @abstractmethod
    def make(self) -> Plan: ...

    def recipe(self) -> Recipe:
        return Recipe(self.make(), masks.Random())

    @pytest.mark.parametrize("steps", [1, 2, 7, 28])
    def test_shares_are_shares(self, pair: TinyPair, steps: int) -> None:
        shares = [step.share for step in pair.generate(self.recipe(), (3, 4), [0], steps)]
        assert len(shares) == steps
        assert all(0 <= share <= 1 for share in shares)

    def test_says_whether_it_needs_a_mask(self, pair: TinyPair) -> None:
        partial = any(step.tokens is not None for step in pair.generate(self.recipe(), (6, 6), [0], 28))
        assert self.make().masked or not partial


class FillConformance(StrategyConformance):
    """What the loop expects of a `Fill`."""

    @abstractmethod
    def make(self) -> Fill: ...

    def recipe(self) -> Recipe:
        return Recipe(plans.Staged(large=0.4, hybrid=0.4, share=0.3), masks.Random(), self.make())

    @pytest.mark.parametrize("grid", GRIDS)
    def test_predicts_every_token(self, pair: TinyPair, grid: tuple[int, int]) -> None:
        with pair.trajectory(grid, [0, 1]) as trajectory:
            velocity = self.make().velocity(trajectory)
            assert velocity.shape == trajectory.dense[-1][1].shape
        assert torch.isfinite(velocity).all()


def _scheduler(steps: int) -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    return scheduler


def _noise(shape: tuple[int, ...], pictures: list[int]) -> Tensor:
    """Random numbers that belong to the picture number, whatever its place in the batch."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(number)) for number in pictures])
