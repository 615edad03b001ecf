"""Every built-in strategy, and one that a user would write, on the conformance classes that the package ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hybridstitch import fills, masks, plans
from hybridstitch.fills import Fill
from hybridstitch.masks import MaskStrategy
from hybridstitch.plans import Plan
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.testing.conformance import FillConformance, MaskConformance, PlanConformance
from hybridstitch.testing.toys import TinyPair


def shown(document: str, base: str) -> dict[str, Any]:
    """What the Python block of a document defines in which this class is derived from."""
    blocks = (Path(__file__).parents[1] / document).read_text().split("```python\n")
    code = next(block.split("```")[0] for block in blocks if f"({base})" in block)
    assert len(code.splitlines()) < 40, "an example is short"
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(code, document, "exec", dont_inherit=True), namespace)
    return namespace


class TestUsersMask(MaskConformance):
    def make(self) -> MaskStrategy:
        return shown("README.md", "MaskStrategy")["LoudTokens"]()


class TestUsersPlan(PlanConformance):
    def make(self) -> Plan:
        return shown("docs/own-strategy.md", "Plan")["EverySecond"]()


class TestUsersFill(FillConformance):
    def make(self) -> Fill:
        return shown("docs/own-strategy.md", "Fill")["Halfway"]()


class TestMasks(MaskConformance):
    @pytest.fixture(params=masks.BUILT_IN, autouse=True)
    def _choose(self, request):
        self.chosen = request.param

    def make(self) -> MaskStrategy:
        return self.chosen()


class TestPlans(PlanConformance):
    @pytest.fixture(params=plans.BUILT_IN, autouse=True)
    def _choose(self, request):
        self.chosen = request.param

    def make(self) -> Plan:
        return self.chosen()


class TestFills(FillConformance):
    @pytest.fixture(params=fills.BUILT_IN, autouse=True)
    def _choose(self, request):
        self.chosen = request.param

    def make(self) -> Fill:
        return self.chosen()


@pytest.fixture(scope="module")
def pair() -> TinyPair:
    return TinyPair()


def test_velocity_change_is_the_distance_of_the_last_two_dense_predictions(pair):
    with pair.trajectory((3, 8), [0, 1]) as trajectory:
        scores = masks.VelocityChange().scores(trajectory)
        (_, before), (_, last) = trajectory.dense
    assert torch.allclose(scores[1, 5], (last[1, 5] - before[1, 5]).square().sum().sqrt())


def test_disagreement_is_the_distance_of_the_two_models_at_the_same_latents(pair):
    with pair.trajectory((3, 8), [0, 1]) as trajectory:
        scores = masks.Disagreement().scores(trajectory)
        point, large = trajectory.dense[-1]
        small = trajectory.small_model(point.latents, point.timestep)
    assert torch.allclose(scores[0, 7], (large[0, 7] - small[0, 7]).norm())


def test_box_takes_the_box_first_and_then_what_is_near(pair):
    box = masks.Box(left=0.5, top=0, right=1, bottom=0.5)
    with pair.trajectory((6, 6), [0]) as trajectory:
        order = box.scores(trajectory)[0].argsort(descending=True).tolist()
    inside = {row * 6 + column for row in range(3) for column in range(3, 6)}
    assert set(order[:9]) == inside
    assert order[-1] == 30  # the far corner


def test_random_is_the_same_for_every_picture(pair):
    with pair.trajectory((3, 8), [0, 1]) as trajectory:
        first, same, other = (masks.Random(seed).scores(trajectory) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(first[0], first[1])


def test_a_conformance_class_without_make_says_what_is_missing() -> None:
    class TestNothing(MaskConformance):
        pass

    with pytest.raises(NotImplementedError, match=r"TestNothing\.make: expected a method that returns the strategy"):
        TestNothing().recipe()


class Never(Plan):
    type = "never"

    def large_share(self, trajectory):
        return float("nan")


class OneForAll(MaskStrategy):
    type = "one-for-all"

    def scores(self, trajectory):
        return trajectory.dense[-1][1].mean(dim=(1, 2))[:, None]


class Short(Fill):
    type = "short"

    def velocity(self, trajectory):
        return trajectory.velocities[0][:, :-1]


@pytest.mark.parametrize(
    ("plan", "mask", "fill", "words"),
    [
        (Never(), masks.Random(), fills.Small(), r"Never \(never\): expected a share within 0..1, got nan"),
        (plans.Staged(), OneForAll(), fills.Small(), r"\(one-for-all\): expected scores .*\(2, 12\), got \(2, 1\)"),
        (plans.Staged(), masks.Random(), Short(), r"\(short\): expected a velocity .*\(2, 12, \d+\), got \(2, 11,"),
    ],
)  # fmt: skip
def test_a_strategy_that_breaks_its_contract_is_named(
    pair: TinyPair, plan: Plan, mask: MaskStrategy, fill: Fill, words: str
) -> None:
    with pytest.raises(RuntimeError, match=words):
        pair.generate(Recipe(plan, mask, fill), (3, 4), [0, 1])
