"""Fill `fitted`: its arithmetic worked by hand, guidance between fitted scales, and other numbers of steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hybridstitch import InvalidInput, fills, masks, plans
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.testing.toys import TinyPair
from hybridstitch.trajectory import StepState, Trajectory


class Two:
    """A generation of two tokens over three steps, with answers that are written down."""

    def __init__(self, guidance_scale: float = 4.5, small: tuple[tuple[float, float], ...] = ()):
        self.small, self.steps = small, 3
        self.trajectory = Trajectory((1, 2), 3, self, guidance_scale)

    def __call__(self, latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        return torch.tensor(self.small[int(timestep)]).view(1, 2, 1)

    conditional = __call__

    def at(self, index: int, sigma: float, *latents: float) -> Two:
        state = StepState(index, torch.tensor(float(index)), sigma, torch.tensor(latents).view(1, 1, 1, 2))
        self.trajectory.move_to(state)
        return self

    def large(self, *values: float, tokens: list[int] | None = None) -> Two:
        where = None if tokens is None else torch.tensor([tokens])
        self.trajectory.record(torch.tensor(values).view(1, -1, 1), where)
        return self


def velocity(fill: fills.Fitted, two: Two) -> list[float]:
    return fill.velocity(two.trajectory).flatten().tolist()


WEIGHTS = (0.0, 1.0, 0.0, 0.5, 0.25, 0.125, -0.5, 2.0, 1.0)
"""Of three steps, at each: latents, last velocity, velocity before."""


def test_three_steps_of_two_tokens_by_hand():
    fill = fills.Fitted(weights=WEIGHTS)
    two = Two().at(0, 1.0, 3.0, 5.0).large(1.0, -2.0).at(1, 0.75, 2.75, 5.5)
    # One velocity is known, so it counts twice: .5 * 3 + .375 * 1, and .5 * 5 - .375 * 2.
    assert velocity(fill, two) == pytest.approx([1.875, 1.75])
    # The large model renders the second token at step 1: it goes on from there, the first one from step 0.
    two.large(4.0, tokens=[1]).at(2, 0.5, 2.5, 4.5)
    # First: -.5 * 3 + 3 * 1. Second: -.5 * 5.5 + 3 * 4. A token has as many velocities as there were dense steps.
    assert velocity(fill, two) == pytest.approx([1.5, 9.25])


def test_two_velocities_by_hand():
    two = Two().at(0, 1.0, 3.0, 5.0).large(1.0, -2.0).at(1, 0.75, 2.75, 5.5).large(2.0, 6.0)
    # -.5 * 2.75 + 2 * 2 + 1 * 1, and -.5 * 5.5 + 2 * 6 + 1 * -2.
    assert velocity(fills.Fitted(weights=WEIGHTS), two.at(2, 0.5, 2.25, 4.0)) == pytest.approx([3.625, 7.25])


def test_the_small_models_change_is_a_feature_of_its_own():
    fill = fills.Fitted(weights=(0.0, 1.0, 0.0, 0.5), small=True)
    two = Two(small=((1.0, 1.0), (3.0, 0.0))).at(0, 1.0, 0.0, 0.0).large(1.0, 2.0).at(1, 0.5, 0.0, 0.0)
    assert velocity(fill, two) == pytest.approx([1 + 0.5 * (3 - 1), 2 + 0.5 * (0 - 1)])


@pytest.mark.parametrize(
    ("scale", "share"), [(1.0, 0.0), (3.5, 0.0), (4.0, 0.5), (4.5, 1.0), (7.0, 2.0), (5.75, 1.5), (20.0, 2.0)]
)
def test_weights_between_guidance_scales_are_interpolated_and_outside_the_nearest(scale, share):
    fill = fills.Fitted(guidance=(3.5, 4.5, 7.0), weights=(0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0))
    assert fill.weights_at(0, 1, scale) == pytest.approx([share] * 3)


def test_weights_are_resampled_by_position_with_a_warning():
    fill = fills.Fitted(weights=WEIGHTS)
    first = [fill.weights_at(index, 6, 4.5)[1] for index in range(6)]
    assert first == [1.0, 1.0, 0.25, 0.25, 2.0, 2.0]
    assert [fill.weights_at(index, 3, 4.5)[1] for index in range(3)] == [1.0, 0.25, 2.0]
    assert fill.weights_at(0, 1, 4.5)[1] == 0.25
    assert fill.warnings(3, 4.5) == []
    assert "fitted at 3 steps, resampled to 6" in fill.warnings(6, 4.5)[0]
    assert fills.Fitted().warnings(6, 9.0) == []


@pytest.mark.parametrize(("scale", "used"), [(1.0, 3.5), (3.49, 3.5), (3.5, None), (5.0, None), (7.0, None), (9, 7.0)])
def test_guidance_outside_the_fitted_scales_has_a_warning(scale, used):
    fill = fills.Fitted(guidance=(3.5, 7.0), weights=(0.0, 0.0, 0.0, 1.0, 1.0, 1.0))
    assert len(fill.warnings(1, scale)) == (used is not None)
    if used is not None:
        assert f"guidance scales 3.5 to 7, those of {used:g} are used for {scale:g};" in fill.warnings(1, scale)[0]
    assert "fitted at guidance scale 4.5, those" in fills.Fitted(weights=WEIGHTS).warnings(3, 4.6)[0]


def test_the_report_passes_the_warnings_on(tiny_pipe):
    recipe = Recipe(plans.ExplicitShares((1.0, 0.0, 0.0)), masks.All(), fills.Fitted(weights=WEIGHTS))
    for steps, scale in ((3, 4.5), (6, 4.5), (3, 2.0)):
        call = {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "np"}
        warnings = tiny_pipe("one", recipe=recipe, **call).report.warnings
        assert any("resampled" in each for each in warnings) == (steps == 6)
        assert any("at guidance scale" in each for each in warnings) == (scale == 2)


def test_the_default_weights_reuse_the_last_velocity():
    plan = plans.ExplicitShares((1.0, 0.3, 0.0, 1.0, 0.3, 0.0))
    fitted, last = (
        TinyPair().generate(Recipe(plan, masks.Random(), fill), (3, 4), [0])[-1].latents
        for fill in (fills.Fitted(), fills.Last())
    )
    torch.testing.assert_close(fitted, last)


def test_it_computes_in_float32_whatever_the_dtype():
    two = Two().at(0, 1.0, 3.0, 5.0)
    two.trajectory.record(torch.tensor([[[1.0], [-2.0]]]).bfloat16())
    found = fills.Fitted(weights=(1 / 3, 1.0, 0.0)).velocity(two.at(1, 0.5, 0.0, 0.0).trajectory)
    assert found.dtype == torch.bfloat16
    assert found.flatten().tolist() == torch.tensor([2.0, 5 / 3 - 2]).bfloat16().tolist()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"weights": [1.0, 2.0]}, "weights"),
        ({"guidance": [3.5, 4.5]}, "weights"),
        ({"guidance": [4.5, 3.5], "weights": [0.0] * 6}, "guidance"),
        ({"small": True}, "weights"),
        ({"weights": [float("nan")] * 3}, "weights"),
        ({"guidance": [-1.0]}, "guidance"),
    ],
)
def test_wrong_parameters_are_named(wrong, field):
    with pytest.raises(InvalidInput, match=rf"fill\.{field}: expected"):
        fills.Fitted.build(wrong, "fill")
