"""`bench --scale`: full shapes without weights, forwards against the FLOP model, and predictions on the real loop."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel

from hybridstitch import Recipe, recipes
from hybridstitch.bench import scale
from hybridstitch.bench.contenders import Contender
from hybridstitch.bench.scale_cases import CACHED, COMPILED, DENSE, HALF, SUBSET, Case, Setting, cases_of
from hybridstitch.bench.scale_clock import launches
from hybridstitch.bench.scale_measure import Timing, measure
from hybridstitch.bench.scale_models import SCALES, SHAPES, VAE, cut, memory_plan, random_transformer
from hybridstitch.bench.scale_predict import Costs, predict
from hybridstitch.bench.scale_table import as_json, markdown
from hybridstitch.cli.main import main
from hybridstitch.model.compile import compile_blocks
from hybridstitch.plans import Periodic
from hybridstitch.recipe.catalogue import Catalogue
from tests.support.tiny import load_pipeline

LARGE, SMALL = SCALES["sd35"]
NARROW = {"num_attention_heads": 2, "caption_projection_dim": 128, "joint_attention_dim": 64}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same models at toy width and with few layers; all else is as it is."""
    for name, shape in list(SHAPES.items()):
        dual = tuple(shape.get("dual_attention_layers", ()))[:2]
        small = {**NARROW, "num_layers": 4 if name == LARGE else 3, "dual_attention_layers": dual}
        monkeypatch.setitem(SHAPES, name, {**shape, **small, "pos_embed_max_size": 64})  # type: ignore[arg-type]
    monkeypatch.setitem(VAE, "block_out_channels", (32,) * 4)  # type: ignore[arg-type]


def no_match(recipe: Recipe, speed: float) -> Recipe:
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "parameters"), [("SD3.5-Large", 8.146e9), ("SD3.5-Medium", 2.470e9), ("SD3-Medium", 2.085e9)]
)
def test_shapes_are_those_of_the_public_models(name: str, parameters: float) -> None:
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(**SHAPES[name])
    values = [*transformer.parameters(), *transformer.buffers()]
    assert sum(each.numel() for each in values) == pytest.approx(parameters, rel=0.001)


def test_memory_at_full_size() -> None:
    plan = memory_plan(LARGE, SMALL, torch.bfloat16)
    kv = [plan.kv_bytes(part, "bfloat16", 1024, 1024) / 2**30 for part in ("transformer", "transformer_small")]
    assert kv == [pytest.approx(3.05, abs=0.005), pytest.approx(1.83, abs=0.005)]
    assert sum(plan.weight_bytes("bfloat16").values()) == pytest.approx(2 * (8.146e9 + 2.470e9 + 84e6), rel=0.001)


@pytest.mark.parametrize("name", [*SHAPES])
def test_operations_grow_with_layers_and_not_with_width(name: str) -> None:
    counted, second = launches(cut(SHAPES[name], 4), torch.device("cpu"))
    wider, _ = launches({**cut(SHAPES[name], 4), "num_attention_heads": 3}, torch.device("cpu"))
    deeper, _ = launches(cut(SHAPES[name], 6), torch.device("cpu"))
    assert counted == wider
    assert 40 < counted[False] / 4 < counted[True] / 4 < deeper[True] / 4
    assert 0 < second < 0.01


def test_cut_models_have_the_flops_that_are_counted_for_them() -> None:
    case = Case(SMALL, SUBSET, Setting(512, 2), 0.3)
    assert cut(SHAPES[SMALL], 2)["dual_attention_layers"] == (0, 1)
    whole, layers = case.flops(), [case.flops(layers) for layers in (2, 3, 12, 13, 14, 24)]
    assert layers == sorted(layers)
    assert layers[-1] == whole
    assert layers[3] - layers[2] > layers[4] - layers[3]  # the fourteenth layer has no image-only attention


def test_every_forward_is_measured_with_what_it_needs(narrow: None) -> None:
    models = {name: random_transformer(SHAPES[name], torch.float32, "cpu") for name in (LARGE, SMALL)}
    settings = [Setting(64, 1), Setting(96, 2)]
    lines: list[str] = []
    found = measure(models, list(cases_of(LARGE, SMALL, settings)), 2, time.monotonic() + 60, lines.append)
    assert found.left_out == []
    assert [len(timing.seconds) for timing in found.timings.values()] == [2] * 18
    assert len(lines) == 18
    late = measure(models, list(cases_of(LARGE, SMALL, settings)), 2, time.monotonic() - 1, lines.append)
    assert (len(late.timings), len(late.left_out)) == (0, 18)


def costs(setting: Setting, seconds: dict[Any, float], launch: float = 0.0) -> Costs:
    """Costs of a dense forward 10 s, of shares 2, 3, 4 and 6 s, of the small model 3 s, of half of one 1.5 s."""
    given = {DENSE: 10.0, CACHED: 11.0, 0.1: 2.0, 0.2: 3.0, 0.3: 4.0, 0.5: 6.0, "small": 3.0, HALF: 1.5} | seconds
    timings = {}
    for case in cases_of(LARGE, SMALL, [setting]):
        key = case.share if case.kind == SUBSET else "small" if (case.model, case.kind) == (SMALL, DENSE) else case.kind
        timings[case] = Timing(case, SHAPES[case.model]["num_layers"], [given[key]])
    operations = {name: {False: 100, True: 110} for name in (LARGE, SMALL)}
    return Costs(timings, LARGE, SMALL, setting, operations, launch)


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ("large", 280.0),
        ("large@14", 140.0),
        ("small", 84.0),
        ("t-stitch", 17 * 10 + 11 * 3.0),
        ("hybridstitch", 4 * 11 + 7 * (4 + 3) + 17 * 3.0),
        ("reuse", 160.0),
    ],
)
def test_a_prediction_is_the_sum_of_its_forwards(spec: str, seconds: float) -> None:
    contender = Contender.parse(spec, Catalogue.load(), 28, 4.5, no_match)
    found = predict(contender, costs(Setting(512, 1), {}), 28)
    assert found.seconds == (pytest.approx(seconds), pytest.approx(seconds))
    assert found.launch_bound == ()


def test_a_cpu_compiles_the_cheapest_setting_alone() -> None:
    def settings(device: str) -> list[Setting]:
        options = scale.ScaleOptions("sd35", (1024, 512), (1, 4), torch.device(device), torch.float32, 28, 5, 480)
        return options.settings(COMPILED)

    assert settings("cpu") == [Setting(512, 1, COMPILED)]
    assert settings("cuda") == [Setting(pixels, count, COMPILED) for count in (1, 4) for pixels in (1024, 512)]


def test_shares_between_the_measured_ones_are_interpolated() -> None:
    def subset(share: float) -> float:
        recipe = Recipe(Periodic(every=28, share=share), recipes()["ras"].mask, recipes()["reuse"].fill)
        found = predict(Contender("x", recipe, 28), costs(Setting(512, 1), {}), 28)
        dense = sum(number for label, number in found.forwards.items() if CACHED in label)
        return (found.seconds[0] - 11 * dense) / (28 - dense)

    assert subset(0.4) == pytest.approx(5, abs=0.01)
    assert subset(0.05) == pytest.approx(1.5, abs=0.02)
    assert subset(0.75) == pytest.approx(8.5, abs=0.01)


def test_a_plan_that_looks_at_the_picture_has_a_range() -> None:
    contender = Contender.parse("srdiffusion", Catalogue.load(), 28, 4.5, no_match)
    found = predict(contender, costs(Setting(512, 1), {}), 28)
    assert found.seconds == (3 * 10 + 25 * 3.0, 280.0)
    assert found.cost[1] == 1


def test_forwards_that_take_as_long_as_their_launches_are_marked() -> None:
    contender = Contender.parse("ras", Catalogue.load(), 28, 4.5, no_match)
    assert predict(contender, costs(Setting(512, 1), {}, launch=0.02), 28).launch_bound == ()
    (found,) = predict(contender, costs(Setting(512, 1), {}, launch=0.03), 28).launch_bound
    assert found.startswith("SD3.5-Large, 25 %")


def test_predicted_work_is_the_work_of_the_report(narrow: None, tiny: Path) -> None:
    """The same loop with real models counts as many forwards: large and small ones, dense and on subsets."""
    pipe = load_pipeline(tiny)
    for name in ("hybridstitch", "ras", "two-stage", "extrapolate"):
        report = pipe("one", recipe=name, num_inference_steps=12, width=32, height=32).report
        contender = Contender.parse(name, Catalogue.load(), 12, 4.5, no_match)
        setting = Setting(128, 1)
        found = predict(contender, costs(setting, {}), 12)
        dense = sum(number for label, number in found.forwards.items() if label.startswith(LARGE) and DENSE in label)
        assert dense == sum(share == 1 for share in report.share_by_step), name
        subsets = sum(number for label, number in found.forwards.items() if "of the tokens" in label)
        assert subsets == sum(0 < share < 1 for share in report.share_by_step), name


def test_the_command_measures_predicts_and_generates(
    narrow: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["bench", "--scale", "sd3.5", "--width", "64", "--steps", "8", "--seconds", "100", "--out", str(out)]
    command += ["--modes", "eager"]
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found == json.loads((out / "scale.json").read_text())
    assert found["layers"] == {LARGE: 2, SMALL: 2}
    assert found["left_out"] == []
    assert {each["pictures"] for each in found["forwards"]} == {1, 4}
    assert all(len(each["runs"]) == 5 for each in found["forwards"])
    assert {(each["mode"], each["compile_seconds"]) for each in found["forwards"]} == {("eager", None)}
    known = [*Catalogue.load().of_pair("models/emoji").recipes, "speed=1.83", "speed=2.5"]
    assert [each["recipe"] for each in found["recipes"]] == known * 2
    plain = next(each for each in found["recipes"] if each["recipe"] == "large")
    assert plain["speedup"] == [1, 1]
    contenders = [each["contender"] for each in found["pictures"]]
    assert contenders == ["diffusers' own pipeline", "large", "hybridstitch", "speed=2.5"]
    assert [each["cost"] for each in found["pictures"]][:2] == [1, 1]
    page = (out / "scale.md").read_text()
    assert "scaled by FLOPs" in page
    assert page.count("| hybridstitch |") == 3
    assert main([*command, "--recipes", "small,large@4"]) == 0
    assert "| large@4 | 2.00x |" in capsys.readouterr().out


@pytest.mark.slow
def test_compiled_forwards_are_measured_beside_eager_ones(narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made as always, and run as they are: a compiler would take minutes."""
    torch._dynamo.reset()
    monkeypatch.setattr(scale, "compile_blocks", partial(compile_blocks, backend="eager"))
    options = scale.ScaleOptions("sd35", (128,), (1,), torch.device("cpu"), torch.float32, 8, 1, 10_000)
    contender = Contender.parse("large", Catalogue.load(), 8, 4.5, no_match)
    result = scale.run_scale(options, [contender], [contender], lambda line: None)
    torch._dynamo.reset()
    found = as_json(result)
    assert (found["left_out"], found["compile_error"]) == ([], "")
    forwards = {mode: [each for each in found["forwards"] if each["mode"] == mode] for mode in found["modes"]}
    assert (len(forwards["eager"]), len(forwards["compiled"])) == (9, 7)  # without halves
    assert all(each["of_eager"] > 0 for each in forwards["compiled"])
    seconds = [each["compile_seconds"] for each in forwards["compiled"]]
    # Shares of the tokens have one graph together, so that the first run of the later ones is not long.
    assert max(seconds[3:6]) < min(seconds[0], seconds[1], seconds[2], seconds[6])
    predicted = {(each["pixels"], each["mode"]): each["speedup"] for each in found["recipes"]}
    assert predicted == {(128, "eager"): [1, 1], (128, "compiled"): [1, 1]}
    pictures = [(each["contender"], each["mode"]) for each in found["pictures"]]
    assert pictures == [(name, mode) for mode in found["modes"] for name in ("diffusers' own pipeline", "large")]
    page = markdown(result)
    assert "## Compilation" in page
    assert "## Recipes, 128 px, 1 picture, compiled, predicted" in page


def test_a_machine_without_a_compiler_says_so(narrow: None) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no C++ compiler")

    torch._dynamo.reset()
    models = {LARGE: random_transformer(cut(SHAPES[LARGE], 1), torch.float32, "cpu")}
    compile_blocks(models[LARGE], backend=fail)
    cases = [Case(LARGE, kind, Setting(128, 1, COMPILED)) for kind in (DENSE, CACHED)]
    found = measure(models, cases, 1, time.monotonic() + 10_000, lambda line: None, speed=1e9)
    torch._dynamo.reset()
    assert found.left_out == cases
    assert "no C++ compiler" in found.compile_error


def test_wrong_options_of_a_scale_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "--width",
        "100",
        "--count",
        "3",
        "--recipes",
        "large~2,small/heun,cache-dit:Fn=1,Bn=2",
        "--processes",
        "2",
    ]
    given += ["--equal-flops", "front", "large"]
    assert main(["bench", "--scale", "sd35", *given]) == 2
    printed = capsys.readouterr().err
    for words in (
        "--width",
        "--count",
        "large~2",
        "small/heun",
        "'cache-dit:Fn=1,Bn=2'",
        "--processes",
        "--equal-flops",
    ):
        assert words in printed
    assert main(["bench", "--scale", "sd4"]) == 2
    assert "--scale: expected one of: sd35, sd3" in capsys.readouterr().err


@pytest.mark.slow
def test_a_subset_at_true_width_costs_what_the_flop_model_predicts() -> None:
    """One layer of SD3.5-Large, 512 px, by CPU time. The tolerance is for a machine that does other work."""
    models = {LARGE: random_transformer(cut(SHAPES[LARGE], 1), torch.float32, "cpu")}
    setting = Setting(512, 1)
    dense, subset = Case(LARGE, CACHED, setting), Case(LARGE, SUBSET, setting, 0.3)
    found = measure(models, [dense, subset], 3, time.monotonic() + 600, lambda line: None)
    assert found.left_out == []
    ratio = min(found.timings[subset].seconds) / min(found.timings[dense].seconds)
    assert ratio == pytest.approx(subset.flops(1) / dense.flops(1), rel=0.15)
