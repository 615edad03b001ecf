"""The speed dial of a pair, tuned or not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridstitch import InvalidInput, fills, masks, plans
from hybridstitch.recipe.catalogue import Catalogue, TunedRecipe
from hybridstitch.recipe.recipe import Recipe, recipes
from hybridstitch.recipe.untuned import FASTEST, untuned_recipe
from hybridstitch.tune.fit import Fitting
from hybridstitch.tune.points import Trial, write
from hybridstitch.tune.search import SPEEDS, Tuner, shares_of
from hybridstitch.tune.trajectories import Trajectories

PROMPTS = ["one", "two"]


def test_recipes_that_were_tuned_at_one_guidance_scale_count_at_it():
    calm = TunedRecipe(recipes()["reuse"], {3.5: 0.5}, {3.5: 40.0}, "fitted steps")
    stiff = TunedRecipe(recipes()["small"], {7.0: 0.4}, {7.0: 30.0}, "fitted steps")
    catalogue = replace(Catalogue.load(), tuned=(calm, stiff))
    assert catalogue.at_speed(1.5, 4.0) == calm
    assert catalogue.at_speed(1.5, 9.0) == stiff
    assert catalogue.fastest == 2.0


@pytest.mark.parametrize("guidance_scale", [0.0, 4.5, 7.0, 20.0])
@pytest.mark.parametrize("speed", [1, 1.01, 1.83, 2.5, 4])
def test_an_untuned_pair_has_a_dial_that_needs_no_calibration(tiny_pipe, speed, guidance_scale):
    call = {"guidance_scale": guidance_scale, "output_type": "latent"}
    report = tiny_pipe("one", speed=speed, num_inference_steps=20, **call).report
    assert speed <= report.estimated_speedup <= 20 / max(1, int(20 / speed)) + 1e-9
    assert any("not tuned" in each for each in report.warnings) == (speed > 1)
    described = tiny_pipe.catalogue.resolve(report.to_dict()["recipe"])
    assert described == report.recipe
    again = tiny_pipe("one", recipe=described, num_inference_steps=20, **call).report
    assert again.share_by_step == report.share_by_step


def test_the_dial_of_an_untuned_pair_refuses_what_was_not_measured(tiny_pipe):
    with pytest.raises(InvalidInput, match=r"speed: expected a number within 1\.\.4, as this pair has not been tuned"):
        tiny_pipe("one", speed=4.1)
    few = tiny_pipe("one", speed=4, num_inference_steps=6, output_type="latent").report
    assert sum(few.share_by_step) == 4
    assert any("4 requested, 1.50 at 6 steps, which is too few steps" in each for each in few.warnings)


@pytest.mark.slow
def test_the_dial_of_a_tuned_pair_is_never_below_that_of_an_untuned_one(tiny_pipe, tmp_path, monkeypatch):
    """Also where fitted steps are worth nothing."""
    steps, scales = 12, [4.5, 7.0]
    search = {"steps": steps, "scales": scales, "journal": tmp_path / "it.jsonl", "work": 60}
    monkeypatch.setattr(Fitting, "_fit", lambda _, trajectory, found, end: [0.0] * len(found))
    tuner = Tuner(tiny_pipe, PROMPTS, **search)
    found = tuner.search()
    assert tuner.work <= 60
    write(found, tuner.pair, steps, {}, tmp_path / "recipes.json")
    tuned = Catalogue.load().with_tuned(tmp_path / "recipes.json")
    for scale in scales:
        trajectories = Trajectories(tiny_pipe, PROMPTS, steps, scale)
        for speed in (each for each in SPEEDS if each <= FASTEST):
            untuned = trajectories.run(untuned_recipe(speed, scale))
            if untuned.cost <= 1 / speed:
                ours = trajectories.run(tuned.at_speed(speed, scale).recipe)
                assert trajectories.fidelity(ours) >= trajectories.fidelity(untuned) - 0.01


def test_a_schedule_reaches_its_speed_whatever_the_rounding_of_its_cost(tmp_path):
    """20 of 30 steps cost 0.6667 in the file, above 1 / 1.5."""
    found = []
    for dense in (20, 10):
        plan = plans.ExplicitShares(shares_of(tuple(range(dense)), 30))
        found.append(Trial(Recipe(plan, masks.All(), fills.Last()), 4.5, dense / 30, -dense, dense))
    write(found, "pair", 30, {}, tmp_path / "recipes.json")
    tuned = Catalogue.load().with_tuned(tmp_path / "recipes.json")
    assert [tuned.at_speed(speed, 4.5).psnr_db[4.5] for speed in (1.5, 1.501, 3, tuned.fastest)] == [20, 10, 10, 10]


def test_weights_of_many_steps_and_scales_fit_into_a_recipe(tmp_path):
    found = []
    for scale in (2.0, 3.5, 4.5, 7.0):
        plan = plans.ExplicitShares(shares_of((0, 50), 100))
        found.append(
            Trial(Recipe(plan, masks.All(), fills.Fitted((scale,), (0.0, 1.0, 0.0) * 100)), scale, 0.02, -9, 9)
        )
    write(found, "pair", 100, {}, tmp_path / "recipes.json")
    fill = Catalogue.load().with_tuned(tmp_path / "recipes.json").at_speed(2, 4.5).recipe.fill
    assert fill.steps == 100
    assert fill.guidance == (2.0, 3.5, 4.5, 7.0)
