"""The search for recipes on a pair of toys, and the speed dial that reads what it found."""

from __future__ import annotations

import json
import random
from functools import partial

import pytest

from hybridstitch import HybridStitchPipeline, InvalidInput, fills, recipes
from hybridstitch.bench.calibration import Calibration, CalibrationPool, Case
from hybridstitch.cli.main import main
from hybridstitch.pipeline import StepWatcher
from hybridstitch.plans import ExplicitShares
from hybridstitch.recipe.names import TUNED_FILE
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.sampler import Step
from hybridstitch.tune.candidates import (
    dense_indices,
    even_candidates,
    method_of,
    neighbour,
    random_candidate,
    stitched,
)
from hybridstitch.tune.disagreement import disagreement
from hybridstitch.tune.search import Tuner, write
from tests.support.tiny import make_pair_folder
from tests.support.walk import Walk, rows_of


def test_dense_steps_at_the_start_the_end_and_between():
    assert dense_indices(10, 1.0, 0.5, 0.2, 1.0) == set(range(10))
    assert dense_indices(10, 0.3, 1.0, 0.0, 1.0) == {0, 1, 2}
    assert dense_indices(10, 0.4, 0.25, 0.25, 1.0) == {0, 9} | {1 + 8 // 3, 1 + 16 // 3}
    rng = random.Random(0)
    for _ in range(200):
        steps, dense = rng.randint(2, 40), rng.random()
        where = dense_indices(steps, dense, rng.random(), rng.random(), rng.uniform(0.5, 2))
        assert 0 in where
        assert where <= set(range(steps))
        assert len(where) <= max(1, round(dense * steps))


def test_candidates_are_recipes():
    rng = random.Random(0)
    for index in range(100):
        candidate = neighbour(random_candidate(rng, regions=index % 2 == 1), rng)
        assert len(candidate.recipe(28).plan.shares) == candidate.steps(28)


@pytest.mark.parametrize(
    ("shares", "fill", "named"),
    [
        ((1, 1, 1, 1), fills.Small(), "large with fewer steps"),
        ((1, 0, 1, 0), fills.Last(), "reuse"),
        ((1, 0, 1, 0), fills.Extrapolate(), "extrapolate"),
        ((1, 0.1, 1, 0.1), fills.Last(), "refresh of tokens, as RAS"),
        ((1, 0, 1, 0), fills.Corrected(), "steps of both, as SRDiffusion, fill corrected"),
        ((1, 0.1, 1, 1), fills.Direction(), "regions of both, as HybridStitch, fill direction"),
    ],
)
def test_the_method_of_a_candidate(shares, fill, named):
    recipe = Recipe(ExplicitShares(tuple(map(float, shares))), fill=fill)
    assert method_of(recipe) == named


@pytest.mark.parametrize(
    ("shares", "fill", "regions"),
    [
        ((1, 0.1, 1, 1), fills.Corrected(), True),
        ((1, 0.1, 1, 1, 1), fills.Corrected(), False),
        ((1, 0.1, 1, 1), fills.Last(), False),
        ((1, 0, 1, 1), fills.Corrected(), False),
    ],
)
def test_stitched_recipes(shares, fill, regions):
    assert stitched(Recipe(ExplicitShares(tuple(map(float, shares))), fill=fill)) == regions


def test_even_candidates_have_their_share_of_dense_steps():
    for candidate in even_candidates():
        shares = candidate.recipe(28).plan.shares
        assert sum(share == 1 for share in shares) == pytest.approx(candidate.dense * len(shares), abs=1)
        assert shares[0] == 1
    assert {stitched(candidate.recipe(28)) for candidate in even_candidates()} == {True, False}


@pytest.mark.slow
def test_a_search_ends_in_a_file_that_the_speed_dial_reads(tiny_pipe, tmp_path):
    calibration, scales = Calibration(tiny_pipe, ["one", "two"], 8), [3.5, 7.0]
    tuner = Tuner(calibration, scales, tmp_path / "trials.jsonl")
    found = tuner.search(first=8, rounds=2)
    lines = (tmp_path / "trials.jsonl").read_text()
    again = Tuner(calibration, scales, tmp_path / "trials.jsonl").search(first=8, rounds=2)
    assert [each.measured for each in again] == [each.measured for each in found]
    assert (tmp_path / "trials.jsonl").read_text() == lines
    for regions in (False, True):
        kind = [trial for trial in found if trial.stitched == regions]
        assert kind, "a kind without a candidate proves nothing"
        for trial in kind:
            assert any(
                all(other.fidelity(s) < trial.fidelity(s) for other in kind if other.cost(s) < trial.cost(s))
                for s in scales
            )
    tuned = make_pair_folder(tmp_path / "tuned")
    routed = tuner.routed()
    assert len(routed.plan.disagreement) == 8
    assert min(routed.plan.disagreement) > 0
    write(found, tuner, tuned / TUNED_FILE)
    pipe = HybridStitchPipeline.from_pretrained(tuned)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.catalogue.recipes["track"].plan == routed.plan
    assert pipe.catalogue.tuned
    assert all(set(each.costs) == {*scales} for each in pipe.catalogue.tuned)
    speed = 0.9 / min(max(trial.costs.values()) for trial in found)
    report = pipe("one", speed=speed, num_inference_steps=8, output_type="np").report
    assert report.estimated_speedup >= speed
    assert report.to_dict()["speed"] == speed
    assert pipe("one", speed=1, num_inference_steps=8, output_type="np").report.flops_share == 1
    with pytest.raises(InvalidInput, match="speed: expected a number within"):
        pipe("one", speed=1000)
    with pytest.raises(InvalidInput, match="no recipe beside it"):
        pipe("one", speed=1.1, recipe="large")


@pytest.mark.slow
def test_several_processes_measure_the_same(tiny, tmp_path):
    opened = partial(HybridStitchPipeline.from_pretrained, tiny)
    cases = [Case(recipes()[name], scale, 1) for name in ("small", "reuse") for scale in (1.0, 4.5)]
    here = Calibration(opened(), ["one", "two"], 6)
    with CalibrationPool(opened, ["one", "two"], 6, processes=2) as pool:
        there = dict(pool.measure_all(cases))
    assert [there[number] for number in range(4)] == [pytest.approx(here.measure(case)) for case in cases]


def test_an_untuned_pair_has_no_dial(tiny_pipe):
    with pytest.raises(InvalidInput, match="has not been tuned"):
        tiny_pipe("one", speed=2)


def test_disagreement_is_relative_to_the_large_models_velocity():
    large = {0: [2.0, 0, 0, 0], 1: [0.0, 3, 4, 0]}
    small = {0: [1.0, 0, 0, 0], 1: [0.0, 3, 4, 5]}

    def run(on_step: StepWatcher) -> None:
        walk = Walk(lambda latents, *_: rows_of(small[int(latents.flatten()[0])]), steps=2)
        for index in range(2):
            walk.at(index, [float(index)] * 4).large(*large[index])
            now, trajectory = walk.trajectory.now, walk.trajectory
            on_step(range(1), Step(index, 2, now.timestep, now.sigma, now.latents, now.latents, 1.0, None, trajectory))

    # 1 of 2 at the first step, 5 of 5 at the second.
    assert disagreement([run, run]) == (0.5, 1.0)


@pytest.mark.slow
def test_the_command_tunes_a_pair_and_keeps_to_its_rules(tiny, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    (tmp_path / "more.json").write_text('{"mine": {"name": "small", "step_share": 0.2}}')
    out = tmp_path / "recipes.json"
    command = ["tune", "--pair", str(tiny), "--prompts", str(tmp_path / "prompts.txt"), "--define"]
    command += [str(tmp_path / "more.json"), "--steps", "6", "--candidates", "2", "--rounds", "1"]
    command += ["--guidance-scales", "4.5", "--out", str(out)]
    assert main(command) == 0
    assert "dB at 4.5" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert {"pair", "steps", "named", "points"} == set(content)
    assert "mine" in [point["origin"] for point in content["points"]]
    bench = ["bench", "--large", str(tiny), "--small", str(tiny), "--recipe-file", str(out), "--steps", "6"]
    bench += ["--prompts", str(tmp_path / "prompts.txt"), "--recipes", "speed=1.2", "--out", str(tmp_path / "bench")]
    assert main(bench) == 0
    assert "| speed=1.2 (" in capsys.readouterr().out
    # What was found before takes part again: a shorter search of another seed loses none of it.
    again = [*command, "--recipe-file", str(out), "--candidates", "0", "--seed", "1"]
    assert main([part for part in again if part not in ("--define", str(tmp_path / "more.json"))]) == 0
    assert 0.2 in [each["recipe"]["step_share"] for each in json.loads(out.read_text())["points"]]
    fast = [*again, "--speed", "4"]
    assert main(fast) == 0
    costs = [max(each["costs"].values()) for each in json.loads(out.read_text())["points"]]
    assert 0 < max(costs) <= 0.25
    assert main([*command, "--floor", "98"]) == 1
    assert "98 dB" in capsys.readouterr().err
    (tmp_path / "held-out.txt").write_text("two\n")
    assert main([*command, "--held-out", str(tmp_path / "held-out.txt")]) == 2
    assert "none of the held-out prompts" in capsys.readouterr().err
    assert main([*command, "--held-out", str(tmp_path / "no-such.txt")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["tune", "--large", str(tiny), "--small", str(tiny), "--prompts", str(tmp_path / "prompts.txt")]) == 2
    assert "out: expected a file" in capsys.readouterr().err
