"""Masks and their wrappers on cases that can be worked out by hand: a few tokens, a few steps, simple numbers."""

from __future__ import annotations

import pytest
import torch

from hybridstitch import masks
from hybridstitch.masks.base import ranks
from hybridstitch.trajectory import StepState, Trajectory
from tests.support.walk import Walk, latents_of


def test_ras_prefers_a_small_spread_and_those_that_wait():
    walk = Walk()
    walk.trajectory.move_to(StepState(0, torch.tensor(0.0), 1.0, torch.zeros(1, 2, 2, 2)))
    walk.trajectory.record(torch.tensor([[[0.0, 2.0], [9.0, 13.0], [0.0, 6.0], [0.0, 8.0]]]))
    walk.trajectory.move_to(StepState(1, torch.tensor(0.0), 0.75, torch.zeros(1, 2, 2, 2)))
    assert scores(masks.Spread(starvation=0.0), walk.trajectory) == [-1, -2, -3, -4]
    walk.trajectory.rendered_at = torch.tensor([[1, 1, 1, 0]])
    assert masks.Spread(starvation=2.0).scores(walk.trajectory)[0].argmax() == 3


def test_drift_is_a_tokens_own_rate_times_its_wait():
    walk = Walk().large(0, 0, 0, 0).at(1).large(1, 2, 3, 4).at(2).large(3, tokens=[0]).at(3)
    # Token 0: 2 in a quarter, waits one quarter. The others: 2, 3, 4 in a quarter, wait two.
    torch.testing.assert_close(masks.Drift().scores(walk.trajectory), torch.tensor([[2.0, 4.0, 6.0, 8.0]]))


def test_x0_change_weighs_velocities_by_their_noise():
    walk = Walk().at(0, [1.0] * 4).large(1, 1, 1, 1).at(1, [1.0] * 4).large(0, 1, 2, 4)
    # x0 was 1 - 1 = 0; then 1 - 0.75 v.
    torch.testing.assert_close(masks.X0Change().scores(walk.trajectory), torch.tensor([[1.0, 0.25, 0.5, 2.0]]))
    walk.at(2, [1.0] * 4).large(3, tokens=[1])
    # Token 1 was last seen to lead to 0.25, and now leads to 1 - 0.5 * 3.
    torch.testing.assert_close(masks.X0Change().scores(walk.trajectory), torch.tensor([[1.0, 0.75, 0.5, 2.0]]))


def test_edges_are_differences_of_the_picture_to_come():
    walk = Walk().at(0, [1.0, 1, 1, 5]).large(0, 0, 0, 0)
    assert masks.Edges().scores(walk.trajectory).tolist() == [[0, 4, 4, 8]]


def scores(mask: masks.MaskStrategy, trajectory: Trajectory) -> list[float]:
    return mask.scores(trajectory)[0].tolist()


@pytest.fixture
def changed() -> Trajectory:
    """Velocities of four tokens changed by 1, 2, 3 and 4, and token 0 stands out of the latent."""
    return Walk().large(0, 0, 0, 0).at(1).large(1, 2, 3, 4).at(2, [9.0, 0, 0, 0]).trajectory


def test_ranks_are_places_and_ties_go_to_the_first():
    assert ranks(torch.tensor([[3.0, -1.0, 7.0, 7.0]])).tolist() == [[0.5, 0.25, 1.0, 0.75]]


def test_dilation_spreads_the_largest_score_to_its_neighbours():
    walk = Walk(grid=(1, 4))
    trajectory = walk.large(0, 0, 0, 0).at(1).large(1, 0, 0, 4).at(2).trajectory
    # Ranks 3 2 1 4: the first two stand near rank 3, the others near rank 4, the better one first.
    order = masks.Dilate(masks.VelocityChange()).scores(trajectory)[0].argsort(descending=True)
    assert order.tolist() == [3, 2, 0, 1]


def test_a_blend_weighs_places(changed):
    change, edges = masks.VelocityChange(), masks.Edges()
    # Places by change: 1 2 3 4. The picture to come is 9 - 0.5, -1, -1.5, -2: its edges rank 3 and 2 above 1 and 4.
    by_edges = [4 * place for place in ranks(torch.tensor([scores(edges, changed)]))[0].tolist()]
    assert by_edges != [1, 2, 3, 4]
    blended = scores(masks.Blend(change, edges, 0.25), changed)
    assert blended == pytest.approx(
        [(0.75 * one + 0.25 * two) / 4 for one, two in zip((1, 2, 3, 4), by_edges, strict=True)]
    )


def test_a_union_takes_the_best_of_both(changed):
    changed.velocities[0] = torch.tensor([[[4.0], [0.0], [2.0], [3.0]]])
    changed.velocities[1] = torch.zeros(1, 4, 1)
    first, second = masks.VelocityChange(), masks.Box(left=0.5, top=0.0, right=1.0, bottom=0.5)
    # Changes rank 4 1 2 3; the box holds token 1, and token 2 is farthest from it.
    assert scores(second, changed)[1] == max(scores(second, changed))
    union = scores(masks.Union(first, second), changed)
    assert union[0] == union[1] == 1
    assert max(union[2], union[3]) < 1


def test_rest_comes_before_importance(changed):
    changed.rendered_at = torch.tensor([[0, 0, 1, 1]])
    # Two steps have passed since tokens 0 and 1 were rendered, one since 2 and 3: these wait, best first.
    rested = masks.MinimumAge(masks.VelocityChange(), 1).scores(changed)[0].argsort(descending=True).tolist()
    assert rested == [1, 0, 3, 2]
    changed.rendered_at = torch.tensor([[-3, -2, 0, 1]])
    # After three steps of rest all are alike again: 5 and 4 steps make no difference, 2 and 1 do.
    rested = masks.MinimumAge(masks.VelocityChange(), 3).scores(changed)[0].argsort(descending=True).tolist()
    assert rested == [1, 0, 2, 3]


def test_random_draws_again_whenever_it_is_asked(changed):
    first = scores(masks.Random(), changed)
    assert scores(masks.Random(), changed) == first
    changed.now = StepState(3, changed.now.timestep, changed.now.sigma, changed.now.latents)
    assert scores(masks.Random(), changed) != first


def test_edges_follow_the_latent_as_it_moves(changed):
    before = scores(masks.Edges(), changed)
    changed.now = StepState(3, changed.now.timestep, 0.25, latents_of([0.0, 0, 0, 9.0]))
    assert scores(masks.Edges(), changed).index(max(scores(masks.Edges(), changed))) == 3 != before.index(max(before))


@pytest.mark.parametrize("wrap", [masks.Refresh, masks.Dilate, masks.MinimumAge, masks.Blend, masks.Union])
def test_wrappers_keep_the_count_of_what_they_wrap(wrap):
    assert wrap(masks.All()).count(0.3, 10) == 10
    assert wrap(masks.Random()).count(0.3, 10) == 3
