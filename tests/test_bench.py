"""Contenders, folders and tables, and a whole bench on a toy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from hybridstitch import HybridStitchPipeline, InvalidInput, fills, plans, recipes
from hybridstitch.bench.calibration import Calibration
from hybridstitch.bench.contenders import Contender, with_solver
from hybridstitch.bench.equal_cost import matched, variants
from hybridstitch.bench.folder import BenchFolder
from hybridstitch.bench.run import Bench
from hybridstitch.bench.table import markdown, rows
from hybridstitch.cli.main import main
from hybridstitch.cli.options import defined
from hybridstitch.measure.intervals import Interval
from hybridstitch.measure.perceptual import Perceptual
from hybridstitch.model.parts import fingerprint
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.recipe.recipe import Recipe


def unmatched(recipe: Recipe, speed: float) -> Recipe:
    raise AssertionError(f"nobody asked for {recipe.name} at {speed}")


@pytest.mark.parametrize(
    ("spec", "steps", "solver"),
    [
        ("large~2", 14, "euler"),
        ("large~2/heun", 8, "heun"),
        ("large", 28, "euler"),
        ("large@14", 14, "euler"),
        ("large/heun", 28, "heun"),
        ("small@9/unipc", 9, "unipc"),
    ],
)
def test_contenders_by_their_spec(spec, steps, solver):
    contender = Contender.parse(spec, Catalogue.load(), 28, 4.5, unmatched)
    assert (contender.name, contender.steps, contender.solver) == (spec, steps, solver)
    assert contender.recipe.name == re.split("[@~/]", spec)[0]


@pytest.mark.parametrize("spec", ["nobody", "large/rk4", "hybridstitch/unipc", "", "speed=5", "speed=fast"])
def test_invalid_specs_are_refused(spec):
    with pytest.raises(InvalidInput):
        Contender.parse(spec, Catalogue.load(), 28, 4.5, unmatched)


def bench(
    pipe: HybridStitchPipeline,
    folder: Path,
    specs: list[str],
    steps: int = 6,
    part: tuple[int, int] = (0, 1),
    perceptual: bool = False,
) -> Bench:
    contenders = [Contender.parse(spec, pipe.catalogue, steps, 4.5, unmatched) for spec in specs]
    reference = Contender("reference", recipes()["large"], steps)
    kept = BenchFolder(folder, {"steps": steps}, {each.name: each.to_dict() for each in contenders}, part[0])
    measure = Perceptual() if perceptual else None
    return Bench(pipe, contenders, reference, ["one", "two"], [0, 1], 4.5, kept, part, measure)


@pytest.mark.slow
def test_a_bench_measures_every_contender_on_every_picture(tiny_pipe, tmp_path):
    fewer = [f"large@3/{solver}" for solver in ("even", "heun", "dpm++", "unipc")]
    specs = ["large", "small", "hybridstitch", "large@3", *fewer]
    found = {row.contender: row for row in rows(bench(tiny_pipe, tmp_path, specs, perceptual=True).run(), "small")}
    assert set(found) == {"reference", *specs}
    assert {row.pictures for row in found.values()} == {4}
    assert found["large"].cost == found["reference"].cost == 1
    assert found["large"].whole.psnr_db.value == 60
    assert found["large"].whole.perceptual.value == 0 < found["small"].whole.perceptual.low
    assert found["large@3"].cost == found["large@3/even"].cost == found["large@3/unipc"].cost == pytest.approx(0.5)
    assert found["large@3/heun"].cost == pytest.approx(5 / 6)
    assert len({found[spec].whole.psnr_db.value for spec in fewer}) == 4
    assert found["small"].whole.psnr_db.value < 59
    assert found["hybridstitch"].inside.psnr_db.value != found["hybridstitch"].outside.psnr_db.value
    assert found["hybridstitch"].inside.perceptual.value > 0
    assert found["small"].inside is None
    assert found["small"].difference.psnr_db == found["small"].difference.perceptual == Interval(0, 0, 0)
    assert found["large"].difference.psnr_db.value == pytest.approx(60 - found["small"].whole.psnr_db.value)
    assert markdown(list(found.values())).count("\n") == len(found) + 2
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 4 * len(found)


def test_an_interrupted_bench_continues(tiny_pipe, tmp_path):
    first = bench(tiny_pipe, tmp_path, ["small"]).run()
    lines = (tmp_path / "results-0.jsonl").read_text()
    (tmp_path / "results-0.jsonl").write_text(lines + '\n{"prompt": 1, "se')
    more = bench(tiny_pipe, tmp_path, ["small", "hybridstitch"]).run()
    assert (tmp_path / "results-0.jsonl").read_text().startswith(lines)
    assert [each for each in more if each.contender == "small"] == [each for each in first if each.contender == "small"]
    assert len(more) == 12
    assert bench(tiny_pipe, tmp_path, ["small", "hybridstitch"]).run() == more


def test_two_processes_share_a_bench(tiny_pipe, tmp_path):
    first, second = (bench(tiny_pipe, tmp_path, ["small"], part=(number, 2)).run() for number in range(2))
    assert {each.prompt for each in first} == {0}
    assert {each.prompt for each in second} == {1}
    assert sorted(map(str, bench(tiny_pipe, tmp_path, ["small"]).run())) == sorted(map(str, first + second))


def test_results_of_other_settings_are_refused(tiny_pipe, tmp_path):
    bench(tiny_pipe, tmp_path, ["small"]).run()
    with pytest.raises(InvalidInput, match="steps"):
        bench(tiny_pipe, tmp_path, ["small"], steps=4)
    other = Contender("small", recipes()["t-stitch"], 6)
    with pytest.raises(InvalidInput, match="small"):
        BenchFolder(tmp_path, {"steps": 6}, {"small": other.to_dict()})


def test_a_bench_that_failed_before_its_first_picture_leaves_no_settings(tiny_pipe, tmp_path):
    BenchFolder(tmp_path, {"steps": 9}, {})
    bench(tiny_pipe, tmp_path, ["small"]).run()
    assert json.loads((tmp_path / "settings.json").read_text())["settings"] != {"steps": 9}


def test_another_model_has_another_fingerprint(tiny_pipe, tiny, tmp_path):
    again = HybridStitchPipeline.from_pretrained(tiny)
    assert fingerprint(again) == fingerprint(tiny_pipe)
    again.small.proj_out.bias.data += 1
    assert fingerprint(again) != fingerprint(tiny_pipe)


def test_the_command_writes_table_plot_page_and_json(tiny, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n\ntwo\nthree\n")
    out = tmp_path / "out"
    command = ["bench", "--pair", str(tiny), "--prompts", str(prompts), "--count", "2", "--seeds", "0"]
    (tmp_path / "more.json").write_text('{"half": {"name": "large", "step_share": 0.5}}')
    command += ["--define", str(tmp_path / "more.json"), "--against", "half"]
    command += ["--steps", "4", "--recipes", "small,half", "--out", str(out)]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {row["contender"] for row in printed["rows"]} == {"reference", "small", "half"}
    assert {"bench.json", "bench.md", "bench.html", "pareto.png", "results-0.jsonl"} <= {
        path.name for path in out.iterdir()
    }
    assert "data:image/webp" in (out / "bench.html").read_text()
    assert main([*command, "--guidance-scale", "7"]) == 2
    assert "out" in capsys.readouterr().err
    assert main([*command, "--count", "9"]) == 2
    assert main([*command, "--against", "nobody"]) == 2
    capsys.readouterr()
    assert main([*command, "--recipes", "nobody,small@5/rk4"]) == 2
    message = capsys.readouterr().err
    assert "nobody" in message
    assert "rk4" in message
    assert main(["bench", "--large", str(tiny), "--small", str(tiny)]) == 2
    assert "prompts" in capsys.readouterr().err
    assert main(["bench", "--pair", str(tiny), "--prompts", str(tmp_path / "none.txt")]) == 2


@pytest.mark.slow
def test_two_processes_generate_one_bench(tiny, tmp_path, capsys, monkeypatch):
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    command = ["bench", "--pair", str(tiny), "--prompts", str(tmp_path / "prompts.txt"), "--seeds", "0"]
    command += ["--steps", "8", "--recipes", "small,two-stage~1.83", "--processes", "2", "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    found = {row["contender"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert found["two-stage~1.83"]["pictures"] == 3
    assert found["two-stage~1.83"]["cost"] == pytest.approx(1 / 1.83, abs=0.07)
    lines = [len((tmp_path / "out" / f"results-{part}.jsonl").read_text().strip().splitlines()) for part in (0, 1)]
    assert lines == [6, 3]
    monkeypatch.setattr(Calibration, "generate", None)  # recipes are matched once
    assert main([*command, "--json"]) == 0
    assert {row["contender"]: row for row in json.loads(capsys.readouterr().out)["rows"]} == found


@pytest.mark.parametrize(
    ("name", "speed"),
    [
        ("t-stitch", 1.6), ("two-stage", 1.6), ("hybridstitch", 1.6), ("track", 1.6), ("mdd", 1.6), ("ras", 1.6),
        ("reuse", 2), ("srdiffusion", 2.1), ("front", 2), ("sea", 2),
    ],
)  # fmt: skip
def test_recipes_are_adjusted_to_a_cost(tiny_pipe, name, speed):
    recipe = recipes().get(name) or Recipe(plans.Sea(), fill=fills.Last())
    asked = []

    def cost(recipe: Recipe) -> float:
        call = {"num_inference_steps": 12, "guidance_scale": 4.5, "output_type": "latent"}
        asked.append(recipe)
        return tiny_pipe("one", recipe=recipe, generator=torch.Generator().manual_seed(0), **call).report.flops_share

    found = cost(matched(recipe, speed, 12, cost))
    assert len(asked) < 12
    nearest = min((cost(variant) for variant in variants(recipe, 12)), key=lambda share: abs(share - 1 / speed))
    assert found == nearest


def test_a_cost_out_of_reach_is_refused(tiny_pipe):
    """The small model at all steps costs 0.3 here, so nothing is thirty times cheaper."""
    with pytest.raises(InvalidInput, match="the nearest is"):
        matched(recipes()["two-stage"], 30, 12, lambda recipe: 0.3 + 0.7 * recipe.plan.large)


def test_names_with_another_meaning_are_refused(tmp_path):
    (tmp_path / "more.json").write_text('{"reference": "small", "large@3": "small", "fine": "small"}')
    with pytest.raises(InvalidInput) as error:
        defined(Catalogue.load(), tmp_path / "more.json")
    assert [problem.got for problem in error.value.problems] == ["reference", "large@3"]


def test_solvers_use_the_timesteps_of_their_noise_levels(tiny_pipe):
    for solver in ("dpm++", "unipc"):
        scheduler = with_solver(tiny_pipe, solver).components["scheduler"]
        scheduler.set_timesteps(7)
        assert torch.allclose(scheduler.timesteps, 1000 * scheduler.sigmas[:-1])
        assert (scheduler.timesteps % 1 != 0).any()


def test_a_recipe_without_a_parameter_to_adjust_is_refused(tiny_pipe):
    with pytest.raises(InvalidInput, match="staged, routed"):
        matched(recipes()["small"], 2, 12, lambda _: 1.0)


@pytest.mark.slow
def test_custom_strategies_take_part(tiny, tmp_path, capsys):
    (tmp_path / "loud.py").write_text(
        "from dataclasses import dataclass\nfrom hybridstitch.masks import MaskStrategy\n\n\n"
        '@dataclass(frozen=True)\nclass Loud(MaskStrategy):\n    """Loud tokens."""\n\n    type = \'loud\'\n\n'
        "    def scores(self, trajectory):\n        return trajectory.dense[-1][1].norm(dim=-1)\n"
    )
    (tmp_path / "config.yaml").write_text("handler:\n  strategies:\n    masks:\n      loud: loud:Loud\n")
    (tmp_path / "more.json").write_text('{"mine": {"name": "hybridstitch", "mask": "loud"}}')
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    command = ["bench", "--pair", str(tiny), "--prompts", str(tmp_path / "prompts.txt"), "--seeds", "0", "--steps", "6"]
    command += ["--config", str(tmp_path / "config.yaml"), "--extra-module", str(tmp_path / "loud.py")]
    command += ["--define", str(tmp_path / "more.json"), "--recipes", "mine", "--processes", "2"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "| mine |" in capsys.readouterr().out
