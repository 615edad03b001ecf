"""Plans and fills of the field on cases worked out by hand: few tokens, few steps, simple numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hybridstitch import fills, plans
from hybridstitch.model.mmdit import patchify, unpatchify
from hybridstitch.plans import Plan
from hybridstitch.plans.sea import wiener
from tests.support.walk import STEPS, Walk, latents_of, no_small_model, rows_of


def shares(plan: Plan, steps: int) -> list[float]:
    """The plan's shares where they depend on the schedule alone."""
    return [plan.large_share(Walk(steps=steps).at(index).trajectory) for index in range(steps)]


def test_rows_and_latents_are_each_others_inverse():
    latents = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpatchify(patchify(latents, 2), (2, 3), 2), latents)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (plans.SmallFirst(small=0.5), [0, 0, 1, 1]),
        (plans.Staged(large=0.25, hybrid=0.5, share=0.3), [1, 0.3, 0.3, 0]),
        (plans.ExplicitShares((1.0, 0.5)), [1, 1, 0.5, 0.5]),
        (plans.ExplicitShares((1.0, 0.2, 0.1, 0.0)), [1, 0.2, 0.1, 0]),
        (plans.ExplicitShares((1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0)), [1, 0, 1, 0]),
        (plans.ExplicitShares((1.0, 0.3)), [1, 1, 0.3, 0.3]),
        (plans.ExplicitShares((1.0, 1.0, 0.3, 0.0)), [1, 1, 0.3, 0]),
        (plans.ExplicitShares((0.2, 0.5, 1.0, 1.0)), [0.2, 0.5, 1, 1]),
        (plans.ExplicitShares((1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.1, 0.1)), [1, 1, 0.5, 0.1]),
        (plans.Periodic(every=2, start=0.25, end=0), [1, 0, 1, 0]),
        (plans.Periodic(every=3, start=0.25, end=0.25, share=0.3), [1, 0.3, 0.3, 1]),
        (plans.Routed(large=0.5, disagreement=(0.9, 0.1, 0.2, 0.8)), [1, 0, 0, 1]),
        (plans.Routed(large=0.5, disagreement=(0.2, 0.9)), [0, 0, 1, 1]),
    ],
)
def test_plans_that_know_their_schedule(plan, expected):
    assert shares(plan, STEPS) == expected


def test_the_distances_of_the_front_plans_dense_steps_grow():
    dense = [index for index, share in enumerate(shares(plans.Front(dense=0.4), 28)) if share]
    assert dense == [0, 1, 3, 5, 7, 9, 12, 15, 18, 21, 25]
    assert shares(plans.Front(dense=0.5, curve=1), 8) == [1, 0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 11, 28, 99, 100])
@pytest.mark.parametrize("dense", [0.01, 1 / 4, 1 / 3, 1 / 1.83, 0.99, 1])
@pytest.mark.parametrize("curve", [1, 1.4, 3])
def test_the_front_plan_has_its_share_of_dense_steps_but_at_least_four(steps, dense, curve):
    found = shares(plans.Front(dense=dense, curve=curve), steps)
    assert found[0] == 1
    assert sum(found) == max(math.floor(dense * steps + 1e-9), min(steps, 4))


def test_sea_weighs_frequencies_by_the_picture_in_the_noise():
    flat, stripes, checks = (latents_of(each) for each in ([1.0] * 4, [1.0, -1, 1, -1], [1.0, -1, -1, 1]))
    # Half noise, half picture: 0.5 / (0.25 + 0.25 p) for p = 0, 1/4 and 1/2 is 2, 1.6 and 4/3, of which the mean of
    # the four frequencies (flat, stripes both ways, checks) is 49/30.
    assert torch.allclose(wiener(flat, 0.5), flat * 60 / 49)
    assert torch.allclose(wiener(stripes, 0.5), stripes * 48 / 49)
    assert torch.allclose(wiener(checks, 0.5), checks * 40 / 49)
    assert torch.allclose(wiener(checks + flat, 0.0), checks + flat)


def test_sea_sums_the_change_of_the_filtered_latents_since_the_last_dense_step():
    # The filter multiplies flat latents by 572/257 at sigma 0.75, 60/49 at 0.5 and `last` at 0.25.
    last = (4 / 3) / ((4 / 3 + 2 * 48 / 37 + 24 / 19) / 4)

    def found(*filtered: float) -> list[float]:
        plan, walk = plans.Sea(threshold=0.25, start=0.5), Walk()
        weights = (1.0, 572 / 257, 60 / 49, last)
        levels = [value / weight for value, weight in zip(filtered, weights, strict=True)]
        return [plan.large_share(walk.at(index, [level] * 4).trajectory) for index, level in enumerate(levels)]

    assert found(1, 1, 1.2, 1.32) == [1, 1, 0, 1]  # 0.2, then 0.2 + 0.1
    assert found(1, 1, 1.2, 1.224) == [1, 1, 0, 0]  # 0.2 + 0.02
    assert found(1, 1, 1.3, 1.5) == [1, 1, 1, 0]  # 0.3, then 0.154 alone


def test_srdiffusion_switches_once_the_velocity_settles_and_never_back():
    plan = plans.AdaptiveSwitch(threshold=1.0, least=0.5)
    walk = Walk()
    assert plan.large_share(walk.trajectory) == 1
    assert plan.large_share(walk.large(4, 0, 0, 4).at(1).trajectory) == 1
    # From 8 in all by 4: half, 2 over four steps.
    assert plan.large_share(walk.large(4, 0, 2, 2).at(2).trajectory) == 1
    # From 8 by 1: an eighth, 0.5 over four steps.
    assert plan.large_share(walk.large(4, 0, 2, 1).at(3).trajectory) == 0
    later = Walk().large(4, 0, 0, 4).at(1).large(-4, 0, 0, 4)
    assert plan.large_share(later.at(2).trajectory) == 1
    assert plan.large_share(later.at(3).trajectory) == 0


def test_mdd_counts_how_far_the_small_model_turns():
    answers = iter([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 1.0, 0, 0]])
    walk = Walk(lambda *_: rows_of(next(answers)), steps=5)
    plan = plans.ErrorCounter(limit=0.5, start=0.2, end=0)
    walk.at(0).large(1, 0, 0, 0)
    # At step 1 the small model predicts 1 0 there, and 0.8 0.6 at the last dense step: it turned by 0.2.
    assert plan.large_share(walk.at(1).trajectory) == 0
    # Step 2: 0 1 against 1 0 turns by 1; 1.2 in all.
    assert plan.large_share(walk.at(2).trajectory) == 1
    assert plan.large_share(Walk(no_small_model, steps=5).at(0).trajectory) == 1


def test_mdd_takes_the_direction_of_the_large_and_the_change_of_length_of_the_small():
    answers = iter([[[0.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [5.0, 0.0]], [[0.0, 3.0], [0.0, 2.0]]])
    walk = Walk(lambda *_: torch.tensor([next(answers)]), grid=(1, 2), channels=2)
    walk.trajectory.record(torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]))
    fill = fills.Direction(end=0)
    # Step 1: the small model's lengths are 2 and 5 now; at the large one's last render they were 1 and 5.
    torch.testing.assert_close(fill.velocity(walk.at(1).trajectory), torch.tensor([[[6.0, 8.0], [0.0, 2.0]]]))
    walk.trajectory.record(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[1]]))
    # Step 2: lengths 3 and 2. Token 1 was rendered at step 1, when its length was 5.
    torch.testing.assert_close(fill.velocity(walk.at(2).trajectory), torch.tensor([[[9.0, 12.0], [0.4, 0.0]]]))


def test_mdd_ends_with_the_small_model():
    walk = Walk(lambda *_: rows_of([7.0, 7, 7, 7])).large(1, 2, 3, 4)
    assert fills.Direction(end=0.25).velocity(walk.at(3).trajectory).flatten().tolist() == [7, 7, 7, 7]


def test_reuse_repeats_the_last_answer_of_each_token():
    walk = Walk().large(1, 2, 3, 4).at(1).large(20, 30, tokens=[1, 2]).at(2)
    assert fills.Last().velocity(walk.trajectory).flatten().tolist() == [1, 20, 30, 4]
    assert walk.trajectory.age.tolist() == [[2, 1, 1, 2]]


def test_extrapolation_goes_on_from_each_tokens_own_times():
    walk = Walk().large(0, 0, 0, 0).at(1).large(1, 1, 1, 1).at(2).large(5, tokens=[3]).at(3)
    # Tokens 0 to 2 rose by 1 in a quarter and wait since two quarters; token 3 rose by 4 in the last quarter.
    assert fills.Extrapolate(strength=1.0).velocity(walk.trajectory).flatten().tolist() == [3, 3, 3, 9]
    assert fills.Extrapolate(strength=0.5).velocity(walk.trajectory).flatten().tolist() == [2, 2, 2, 7]


def test_second_order_extrapolation_is_exact_for_a_parabola():
    walk = Walk()
    for index in range(3):
        sigma = 1 - index / STEPS
        walk.at(index).large(*[number * sigma**2 for number in (1, 2, 3, 4)])
    velocity = fills.Extrapolate(order=2, strength=1.0).velocity(walk.at(3).trajectory)
    torch.testing.assert_close(velocity, rows_of([number * 0.25**2 for number in (1, 2, 3, 4)]))


def test_extrapolation_from_one_answer_repeats_it():
    walk = Walk().large(1, 2, 3, 4).at(1)
    assert fills.Extrapolate(order=2).velocity(walk.trajectory).flatten().tolist() == [1, 2, 3, 4]


def test_the_correction_is_carried_and_renewed_token_by_token():
    small = {0: [1.0, 1, 1, 1], 1: [2.0, 2, 2, 2], 2: [3.0, 3, 3, 3]}
    asked = []

    def model(latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        index = round(float(latents.flatten()[0]))
        asked.append(index)
        return rows_of(small[index])

    walk = Walk(model).at(0, [0.0] * 4).large(5, 5, 5, 5)
    fill = fills.Corrected(strength=0.5)
    # Large minus small was 4; half of it is added.
    assert fill.velocity(walk.at(1, [1.0] * 4).trajectory).flatten().tolist() == [4, 4, 4, 4]
    walk.large(12, tokens=[3])
    # Token 3 was rendered at step 1: large minus small was 10 there.
    assert fill.velocity(walk.at(2, [2.0] * 4).trajectory).flatten().tolist() == [5, 5, 5, 8]
    assert asked == [1, 0, 2]


def test_the_small_model_may_do_only_what_is_left():
    seen = []

    def model(latents: Tensor, timestep: Tensor, tokens: Tensor | None = None) -> Tensor:
        seen.append(None if tokens is None else tokens.tolist())
        count = 4 if tokens is None else tokens.shape[1]
        return torch.full((1, count, 1), 7.0)

    fill = fills.SmallRest()
    walk = Walk(model).large(1, 2, 3, 4).at(1)
    walk.trajectory.tokens = torch.tensor([[1]])
    fill.velocity(walk.trajectory)
    walk.at(2).trajectory.tokens = torch.tensor([[0, 2]])
    assert fill.velocity(walk.trajectory)[0, [1, 3], 0].tolist() == [7, 7]
    walk.at(3).trajectory.tokens = torch.tensor([[0, 1, 2, 3]])
    assert fill.velocity(walk.trajectory).shape == (1, 4, 1)
    fill.velocity(walk.at(4).trajectory)
    assert seen == [None, [[1, 3]], None]
