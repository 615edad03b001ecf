"""The search for schedules on a pair of toys."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from math import exp

import pytest
import torch

from hybridstitch import HybridStitchPipeline, InvalidInput, fills, masks, plans
from hybridstitch.base.journal import read_entries
from hybridstitch.cli.main import main
from hybridstitch.model.mmdit import unpatchify
from hybridstitch.recipe.names import TUNED_FILE
from hybridstitch.recipe.recipe import Recipe, recipes
from hybridstitch.tune.disagreement import disagreement
from hybridstitch.tune.fit import Fitting, balanced, products, solved
from hybridstitch.tune.points import plus, points, write
from hybridstitch.tune.positions import Jumps, neighbours
from hybridstitch.tune.search import Tuner, budgets, shares_of
from hybridstitch.tune.trajectories import Trajectories
from tests.support.tiny import make_pair_folder

STEPS, PROMPTS = 6, ["one", "two"]


@pytest.fixture(scope="module")
def trajectories(tiny_pipe):
    return Trajectories(tiny_pipe, PROMPTS, STEPS, 4.5)


def fitted(trajectories: Trajectories, shares: tuple[float, ...], mask=None, small: bool = False):
    """The result of a run that fits, and the recipe with the fitted weights."""
    fitting = Fitting(trajectories.states, trajectories.velocities, trajectories.sigmas, shares, small)
    recipe = Recipe(plans.ExplicitShares(shares), mask or masks.All(), fitting)
    run = trajectories.run(recipe)
    weights = tuple(weight for step in fitting.weights for weight in step)
    return run, replace(recipe, fill=fills.Fitted((4.5,), weights, small))


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_fit_finds_the_weights_of_a_sum():
    found = [noise(seed, 2, 5, 7) for seed in range(4)]
    target = sum(weight * each for weight, each in zip((0.5, -2.0, 3.0, 0.25), found, strict=True))
    assert solved(products([*found, target]).sum(0)) == pytest.approx([0.5, -2.0, 3.0, 0.25], abs=2e-3)
    assert solved(products([*found[:3], found[1]]).sum(0)) == pytest.approx([0, 1, 0], abs=1e-6)


def test_the_fit_leaves_out_the_tokens_that_the_large_model_renders():
    found, rendered = [noise(seed, 2, 5, 7) for seed in range(3)], torch.tensor([[1, 2], [0, 4]])
    target = 2 * found[0] + found[1]
    target[torch.arange(2).unsqueeze(1), rendered] += 100
    assert solved(products([*found, target], rendered).sum(0)) == pytest.approx([2, 1, 0], abs=2e-3)


def test_the_fit_divides_the_weight_of_equal_features():
    last = noise(0, 1, 5, 7)
    found = solved(products([torch.ones(1, 5, 7), last, last, 3 * last]).sum(0))
    assert found[1] + found[2] == pytest.approx(3, abs=1e-3)
    assert abs(found[1]) < 10


def test_a_gap_is_fitted_from_the_states_produced_and_the_large_models_own(trajectories):
    """The second gap of a schedule, by a direct fit of both."""
    shares = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    _, recipe = fitted(trajectories, shares)
    seen: list[torch.Tensor] = []

    class Watched(fills.Fitted):
        def velocity(self, trajectory):
            if trajectory.now.index == 4:
                latents = trajectory.dense[-1][0].latents
                seen.extend([latents, *trajectory.velocities[:2], trajectory.now.latents])
            return super().velocity(trajectory)

    trajectories.run(replace(recipe, fill=Watched(recipe.fill.guidance, recipe.fill.weights)))
    states, velocities, sigmas = trajectories.states, trajectories.velocities, trajectories.sigmas
    produced = [seen[0], *(unpatchify(each, (8, 8), 2) for each in seen[1:3])]
    length = sigmas[6] - sigmas[4]
    rows = [  # of both states of every picture
        torch.cat([one.flatten(1), other.flatten(1)]).double()
        for one, other in zip(
            [*produced, (states[6] - seen[3]) / length],
            [states[3], velocities[3], velocities[0], (states[6] - states[4]) / length],
            strict=True,
        )
    ]
    weights = recipe.fill.weights_at(4, STEPS, 4.5)
    assert weights == recipe.fill.weights_at(5, STEPS, 4.5)

    def left(weights: list[float]) -> float:
        return float(
            (rows[3] - sum(weight * row for weight, row in zip(weights, rows, strict=False))).norm(dim=1).sum()
        )

    for some in (slice(None), slice(0, len(rows[3]) // 2), slice(len(rows[3]) // 2, None), slice(0, 1)):
        features = torch.stack([row[some].flatten() for row in rows[:3]], dim=1)
        direct = torch.linalg.lstsq(features, rows[3][some].flatten()).solution
        assert left(weights) <= left(direct.tolist()) * (1 + 1e-4)


def test_the_rows_that_are_furthest_off_do_not_decide_alone():
    """A plain regression finds (2 * 4 ** 2 + 1) / (4 ** 2 + 1) = 1.94, roots of the errors 1.84."""
    last = [noise(seed, 1, 5000, 7) for seed in (0, 1)]
    sets: list[torch.Tensor] = []
    for each, weight, scale in zip(last, (2.0, 1.0), (4.0, 1.0), strict=True):
        rows = [torch.zeros_like(each), each, torch.zeros_like(each), weight * each + noise(9, 1, 5000, 7)]
        sets += products([scale * row for row in rows])
    assert solved(sets[0] + sets[1])[1] == pytest.approx(33 / 17, abs=0.02)
    assert balanced(sets)[1] == pytest.approx(1.84, abs=0.02)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("shares", [(1.0, 0, 0, 1, 0, 0), (1.0, 1, 0.4, 0, 1, 0)])
def test_fitted_weights_repeat_the_run_that_fitted_them_and_beat_reuse(trajectories, shares, small):
    shares, mask = tuple(map(float, shares)), masks.Random()
    run, recipe = fitted(trajectories, shares, mask, small)
    again = trajectories.run(recipe)
    torch.testing.assert_close(again.latents, run.latents, rtol=1e-3, atol=1e-3)
    assert again.cost == run.cost
    reused = trajectories.run(replace(recipe, fill=fills.Last()))
    assert trajectories.error(run) < trajectories.error(reused) - 1
    assert run.cost > reused.cost if small else run.cost == reused.cost


def test_a_run_equals_the_pipelines_own(trajectories, tiny_pipe):
    _, recipe = fitted(trajectories, (1.0, 0.0, 1.0, 0.0, 0.0, 1.0))
    run = trajectories.run(recipe)
    generation = tiny_pipe.validate(PROMPTS, num_inference_steps=STEPS, guidance_scale=4.5, recipe=recipe)
    generation = replace(generation, seeds=trajectories._generation.seeds)
    out = tiny_pipe.generate(generation, output_type="latent")
    torch.testing.assert_close(out.images, run.latents)
    assert out.report.flops_share == pytest.approx(run.cost) == 0.5


def test_velocities_of_states_that_were_met_before_cost_no_work(tiny_pipe):
    done: list[float] = []
    trajectories = Trajectories(tiny_pipe, PROMPTS, STEPS, 4.5, on_work=done.append)
    assert sum(done) == pytest.approx(len(PROMPTS))

    def work(*schedule: int) -> float:
        done.clear()
        fitted(trajectories, shares_of(schedule, STEPS))
        return sum(done) * STEPS / len(PROMPTS)

    assert work(0, 1, 2) == 0  # the large model's own states
    assert work(0, 1, 3, 5) == pytest.approx(2)
    assert work(0, 1, 3, 4) == pytest.approx(1)  # shares the first three
    assert work(0, 1, 3, 5) == 0


def test_errors_of_jumps_are_those_of_a_direct_fit():
    states, velocities = noise(0, 5, 3, 2, 4), noise(1, 4, 3, 2, 4)
    sigmas = [1.0, 0.8, 0.5, 0.3, 0.0]
    jumps = Jumps(states, velocities, sigmas)
    assert jumps.error(None, 0, 1) == 0
    after = states[1] + (sigmas[2] - sigmas[1]) * velocities[1]
    features = torch.stack([each.flatten() for each in (states[1], velocities[1], velocities[0])], dim=1).double()
    target = (states[4] - after).flatten().double()
    left = target - features @ torch.linalg.lstsq(features, target).solution
    assert jumps.error(0, 1, 4) == pytest.approx(float(left.square().sum()), rel=1e-3)


def test_the_best_positions_are_those_of_a_full_search(trajectories):
    jumps = Jumps(trajectories.states, trajectories.velocities, trajectories.sigmas)

    def cost(schedule: tuple[int, ...]) -> float:
        before = (None, *schedule)
        jumped = zip(before, schedule, (*schedule[1:], STEPS), strict=False)
        return sum(exp(3 * trajectories.sigmas[jump[2]]) * jumps.error(*jump) for jump in jumped)

    for dense in range(1, STEPS):
        every = [(0, *later) for later in combinations(range(1, STEPS), dense - 1)]
        assert cost(jumps.best(dense, 3.0)) == pytest.approx(min(map(cost, every)))


def test_neighbours_move_one_dense_step_by_one_the_last_first():
    assert neighbours((0, 2, 3), 5) == [(0, 2, 4), (0, 1, 3)]
    assert neighbours((0,), 5) == []


def test_a_plan_that_looks_at_the_picture_is_refused(trajectories):
    with pytest.raises(InvalidInput, match=r"srdiffusion\.plan: expected a plan that decides the same"):
        trajectories.run(recipes()["srdiffusion"])


def test_disagreement_is_relative_to_the_large_models_velocity(trajectories):
    found = disagreement(trajectories)
    assert len(found) == STEPS
    large, small = trajectories.velocities[2], trajectories.small_velocity(2)
    each = [float((big - little).norm() / big.norm()) for big, little in zip(large, small, strict=True)]
    assert found[2] == pytest.approx(sum(each) / len(each), abs=1e-4)


@pytest.mark.slow
def test_a_search_ends_in_a_file_that_the_speed_dial_reads(tiny_pipe, tmp_path):
    scales, steps = [3.5, 7.0], 8

    def tuner(work: float = 30) -> Tuner:
        return Tuner(tiny_pipe, PROMPTS, steps, scales, tmp_path / "trials.jsonl", work)

    first = tuner()
    found = first.search()
    assert {trial.guidance_scale for trial in found} == {*scales}
    fitted_ones = [trial for trial in found if trial.origin == "fitted steps"]
    assert {round(trial.cost * steps) for trial in fitted_ones} == {*budgets(steps)}
    assert first.work < 30
    lines = (tmp_path / "trials.jsonl").read_text()
    again = tuner()
    assert again.search() == found
    assert again.work == pytest.approx(first.work, abs=0.01)
    assert (tmp_path / "trials.jsonl").read_text() == lines
    assert all(trial.error < 0 for trial in fitted_ones if trial.cost > 0.3)
    tuned = make_pair_folder(tmp_path / "tuned")
    named = {"mine": recipes()["reuse"], "track": first.routed()}
    write(found, first.pair, steps, named, tuned / TUNED_FILE)
    pipe = HybridStitchPipeline.from_pretrained(tuned)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.catalogue.recipes["track"].plan == first.routed().plan
    assert len(first.routed().plan.disagreement) == steps
    assert min(first.routed().plan.disagreement) > 0
    assert pipe.catalogue.recipes["mine"].plan == recipes()["reuse"].plan
    for scale in scales:
        report = pipe("one", speed=2, guidance_scale=scale, num_inference_steps=steps, output_type="np").report
        assert report.estimated_speedup >= 2
        assert report.recipe.fill.type != "fitted" or scale in report.recipe.fill.guidance
        assert report.to_dict()["speed"] == 2
    assert pipe("one", speed=1, num_inference_steps=steps, output_type="np").report.flops_share == 1
    with pytest.raises(InvalidInput, match="speed: expected a number within"):
        pipe("one", speed=1000)
    with pytest.raises(InvalidInput, match="no recipe beside it"):
        pipe("one", speed=1.1, recipe="large")


@pytest.mark.slow
def test_a_search_keeps_to_its_work_and_leaves_out_the_least_important_speeds(tiny_pipe, tmp_path):
    tuner = Tuner(tiny_pipe, PROMPTS, 8, [4.5], tmp_path / "trials.jsonl", work=4.0)
    found = tuner.search()
    assert tuner.work <= 4.0
    dense = [round(trial.cost * 8) for trial in found]
    assert 3 in dense  # 2.5 times, the most important one
    assert len(dense) < len(budgets(8))


@pytest.mark.slow
def test_moving_dense_steps_finds_no_worse_schedules(tiny_pipe, tmp_path):
    few, many = (
        {round(trial.cost * 8): trial.error for trial in Tuner(*settings).search()}
        for settings in (
            (tiny_pipe, PROMPTS, 8, [4.5], tmp_path / "few.jsonl", 6.0),
            (tiny_pipe, PROMPTS, 8, [4.5], tmp_path / "many.jsonl", 60.0),
        )
    )
    both = few.keys() & many.keys()
    assert all(many[dense] <= few[dense] for dense in both)
    assert any(many[dense] < few[dense] for dense in both)


@pytest.mark.slow
def test_a_thorough_search_stitches_regions_and_both_models(tiny_pipe, tmp_path):
    tuner = Tuner(tiny_pipe, PROMPTS, 8, [4.5], tmp_path / "trials.jsonl", work=80, stitched=True)
    found = tuner.search()
    stitched = [trial for trial in found if trial.stitched]
    assert stitched
    assert {trial.stitched for trial in found} == {True, False}
    assert {trial.recipe.text for trial in stitched} == {"kept"}
    best = plus(found)
    assert best is not None
    assert best in [trial.recipe for trial in stitched if 1.83 <= trial.speed <= 4]
    assert plus([trial for trial in found if not trial.stitched]) is None
    assert points(found) == points([trial for trial in found if not trial.stitched])


@pytest.mark.slow
def test_a_thorough_search_has_one_trial_for_each_schedule_and_scale(tiny_pipe, tmp_path):
    found = Tuner(tiny_pipe, PROMPTS, 8, [3.5, 4.5, 7.0], tmp_path / "trials.jsonl", work=70, stitched=True).search()
    tried = [(trial.schedule, trial.guidance_scale) for trial in found if isinstance(trial.recipe.fill, fills.Fitted)]
    assert len(set(tried)) == len(tried)
    assert len({schedule for schedule, _ in tried}) < len(tried)
    assert points(found)


@pytest.mark.slow
def test_a_finished_search_finds_the_same_once_more(tiny_pipe, tmp_path):
    search = {"steps": 8, "scales": [3.5, 4.5, 7.0], "journal": tmp_path / "trials.jsonl", "work": 70, "stitched": True}
    first = Tuner(tiny_pipe, PROMPTS, **search)
    found = first.search()
    again = Tuner(tiny_pipe, PROMPTS, **search)
    assert again.search() == found
    assert again.work == pytest.approx(first.work, abs=0.01)
    keys = {key for key, _ in read_entries(tmp_path / "trials.jsonl")}
    assert any(key.endswith(" across") for key in keys)
    assert not any(key.removesuffix(" across") in keys for key in keys if key.endswith(" across"))  # none ran twice


def test_budgets_are_the_dense_steps_that_reach_the_speeds():
    assert budgets(28) == [11, 9, 7, 15, 18, 5, 14, 8, 12, 22]
    assert budgets(2) == [1]


@pytest.mark.slow
def test_the_command_tunes_a_pair_and_keeps_to_its_rules(tiny, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    out = tmp_path / "recipes.json"
    command = ["tune", "--pair", str(tiny), "--prompts", str(tmp_path / "prompts.txt"), "--steps", "6", "--quick"]
    command += ["--guidance-scales", "4.5", "--out", str(out)]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "dB at 4.5  fitted steps, large model at steps 0" in told.out
    assert "plain pictures' work in all" in told.err
    assert "s a picture: about" in told.err
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(out.read_text())
    assert {"pair", "steps", "named", "points"} == set(content)
    assert "fitted" in {point["recipe"]["fill"]["type"] for point in content["points"]}
    bench = ["bench", "--large", str(tiny), "--small", str(tiny), "--recipe-file", str(out), "--steps", "6"]
    bench += ["--prompts", str(tmp_path / "prompts.txt"), "--recipes", "speed=1.2", "--out", str(tmp_path / "bench")]
    assert main(bench) == 0
    assert "| speed=1.2 (" in capsys.readouterr().out
    assert main([*command, "--speed", "3"]) == 0
    costs = [max(each["costs"].values()) for each in json.loads(out.read_text())["points"]]
    assert 0 < max(costs) <= 0.34
    assert main([*command, "--floor", "98"]) == 1
    assert "98 dB" in capsys.readouterr().err
    (tmp_path / "held-out.txt").write_text("two\n")
    assert main([*command, "--held-out", str(tmp_path / "held-out.txt")]) == 2
    assert "none of the held-out prompts" in capsys.readouterr().err
    assert main([*command, "--held-out", str(tmp_path / "no-such.txt")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["tune", "--large", str(tiny), "--small", str(tiny), "--prompts", str(tmp_path / "prompts.txt")]) == 2
    assert "out: expected a file" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"step_share": 0.7}, {"text": "kept"}])
def test_a_run_of_a_recipe_that_takes_fewer_steps_or_keeps_the_text_equals_the_pipelines_own(
    trajectories, tiny_pipe, change
):
    recipe = replace(recipes()["hybridstitch"], **change)
    run = trajectories.run(recipe)
    generation = tiny_pipe.validate(PROMPTS, num_inference_steps=STEPS, guidance_scale=4.5, recipe=recipe)
    out = tiny_pipe.generate(replace(generation, seeds=trajectories._generation.seeds), output_type="latent")
    torch.testing.assert_close(out.images, run.latents)
    assert out.report.flops_share == pytest.approx(run.cost)


def test_a_search_with_other_prompts_leaves_no_trajectories_to_the_first_one(tiny_pipe, tmp_path):
    def states(prompts: list[str]) -> torch.Tensor:
        return Tuner(tiny_pipe, prompts, STEPS, [4.5], tmp_path / "it.jsonl")._trajectories(4.5).states

    first = states(PROMPTS)
    torch.testing.assert_close(states(PROMPTS), first, rtol=0, atol=0)
    other = states(["three", "four"])
    assert not torch.equal(other, first)
    torch.testing.assert_close(states(PROMPTS), first)
    assert len([*tmp_path.glob("*.safetensors")]) == 1


def test_a_search_refuses_at_once_a_recipe_that_looks_at_the_picture(tiny_pipe, tmp_path):
    with pytest.raises(InvalidInput, match=r"define\.srdiffusion\.plan: expected a plan that decides the same"):
        Tuner(tiny_pipe, PROMPTS, STEPS, [4.5], tmp_path / "it.jsonl", others=[recipes()["srdiffusion"]])
