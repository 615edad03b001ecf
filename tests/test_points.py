"""From the trials of a search to recipes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridstitch import fills, masks, plans
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.tune.points import STITCHED, Trial, front, gain, plus, points
from hybridstitch.tune.search import shares_of
from hybridstitch.tune.stitched import SHARE, stitched_shares


def test_every_second_step_of_a_stitched_schedule_renders_a_share_of_the_tokens():
    assert stitched_shares((0, 1, 3, 5, 7, 8), 10) == (1, 1, 0, 1, 0, SHARE, 0, 1, SHARE, 0)
    assert stitched_shares((0, 1, 3), 4) == shares_of((0, 1, 3), 4)


def trial(schedule: tuple[int, ...], scale: float, psnr_db: float) -> Trial:
    fill = fills.Fitted((scale,), (scale,) * 12)
    recipe = Recipe(plans.ExplicitShares(shares_of(schedule, 4)), masks.All(), fill, "tuned")
    return Trial(recipe, scale, len(schedule) / 4, -psnr_db, psnr_db)


def stitched_trial(share: float, scale: float, cost: float, psnr_db: float) -> Trial:
    fill = fills.Fitted((scale,), (scale,) * 12)
    recipe = Recipe(plans.ExplicitShares((1.0, share, 1.0, 0.0)), masks.Drift(), fill, "tuned")
    return Trial(recipe, scale, cost, -psnr_db, psnr_db)


def test_the_best_stitched_recipe_gains_most_over_fitted_steps_of_equal_cost():
    steps = [trial((0, 1), scale, psnr_db) for scale, psnr_db in ((3.5, 40.0), (7.0, 30.0))]
    steps += [trial((0,), scale, psnr_db) for scale, psnr_db in ((3.5, 20.0), (7.0, 10.0))]
    half_way = 0.5**1.5  # in the logarithm, between a half and a quarter
    low, high = stitched_trial(0.1, 3.5, half_way, 32.0), stitched_trial(0.1, 7.0, half_way, 19.0)
    assert gain(low, [*steps, low]) == pytest.approx(2.0)
    assert gain(high, [*steps, high]) == pytest.approx(-1.0)
    near, near_too = stitched_trial(0.2, 3.5, 0.5, 40.4), stitched_trial(0.2, 7.0, 0.5, 30.4)
    slow, alone = stitched_trial(0.3, 3.5, 0.6, 60.0), stitched_trial(0.4, 3.5, 0.5, 50.0)
    best = plus([*steps, low, high, near, near_too, slow, alone])
    assert best is not None
    assert best.plan == low.recipe.plan
    assert best.fill == fills.Fitted((3.5, 7.0), (3.5,) * 12 + (7.0,) * 12)


def test_points_are_the_fronts_schedules_with_the_weights_of_every_scale():
    found = [trial((0, 2), 7.0, 30), trial((0,), 3.5, 20), trial((0, 2), 3.5, 40), trial((0, 1), 3.5, 39)]
    assert [each.psnr_db for each in front(found)] == [20, 40, 30]
    first, second = points(found)
    assert first["recipe"]["plan"]["shares"] == [1, 0, 1, 0]
    assert first["recipe"]["fill"]["guidance"] == [3.5, 7]
    assert first["recipe"]["fill"]["weights"] == [3.5] * 12 + [7] * 12
    assert first["costs"] == {"3.5": 0.5, "7": 0.5}
    assert first["psnr_db"] == {"3.5": 40, "7": 30}
    assert second["costs"] == {"3.5": 0.25}


def test_the_dial_takes_stitched_recipes_of_the_user_and_not_of_the_search():
    searched = replace(stitched_trial(0.2, 3.5, 0.4, 60.0), origin=STITCHED)
    own = replace(stitched_trial(0.1, 3.5, 0.3, 50.0), origin="mine")
    assert [each["origin"] for each in points([trial((0, 1), 3.5, 40.0), own, searched])] == ["fitted steps", "mine"]
