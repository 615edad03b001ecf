"""cache-dit as a contender of a bench: the real package, on diffusers' own pipeline."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from hybridstitch import HybridStitchPipeline, InvalidInput, recipes
from hybridstitch.bench.cache_dit import CacheDitPipeline
from hybridstitch.bench.contenders import Contender
from hybridstitch.bench.folder import BenchFolder
from hybridstitch.bench.run import Bench
from hybridstitch.bench.specs import read_cache_dit, split_specs
from hybridstitch.bench.table import rows
from hybridstitch.cli import bench as bench_command
from hybridstitch.cli.main import main
from hybridstitch.generation import Generation
from hybridstitch.recipe.catalogue import Catalogue
from tests.support.tiny import load_pipeline, make_pipeline

STEPS = 12


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> HybridStitchPipeline:
    """A pair whose large model has blocks to skip."""
    folder = tmp_path_factory.mktemp("deep") / "pair"
    make_pipeline("sd35-medium", layers=5).save_pretrained(folder, safe_serialization=True)
    make_pipeline("sd35-large", seed=1).transformer.save_pretrained(folder / "transformer_small")
    return load_pipeline(folder)


@pytest.fixture(scope="module")
def generation(pipe: HybridStitchPipeline) -> Generation:
    source = torch.Generator().manual_seed(7)
    return pipe.validate("a cat", num_inference_steps=STEPS, generator=source, recipe="large")


def plain(pipe: HybridStitchPipeline, generation: Generation) -> np.ndarray:
    return pipe.generate(generation, output_type="np").images[0]


def cached(pipe: HybridStitchPipeline, spec: str) -> CacheDitPipeline:
    return CacheDitPipeline(pipe, read_cache_dit(f"cache-dit:{spec}"))


def test_a_cache_that_reuses_nothing_generates_the_picture_of_the_large_model(pipe, generation):
    rival = cached(pipe, "threshold=0")
    picture, ms, cost = rival.generate(generation)
    assert np.array_equal(picture, plain(pipe, generation))
    assert ms > 0
    assert cost == 1
    assert rival.block_calls == [STEPS] * 5


def test_flops_are_those_of_the_blocks_that_ran(pipe, generation):
    from torch.utils.flop_counter import FlopCounterMode

    def counted(rival: CacheDitPipeline) -> float:
        with FlopCounterMode(display=False) as counter:
            rival.generate(generation)
        return counter.get_total_flops()

    everything, some = cached(pipe, "threshold=0"), cached(pipe, "threshold=1,Fn=2,Bn=1,warmup=4,continuous=2")
    whole, part = counted(everything), counted(some)
    full = some.block_calls[2]
    assert some.block_calls == [STEPS, STEPS, full, full, STEPS]
    assert 4 < full < STEPS
    without_blocks = counted_outside(pipe, generation)
    expected = (part - without_blocks) / (whole - without_blocks)
    assert some.generate(generation)[2] == pytest.approx(expected, abs=0.02)


def counted_outside(pipe: HybridStitchPipeline, generation: Generation) -> float:
    """FLOPs of what a call computes beside the transformer: text encoders and decoder."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        pipe.prompts(generation.guided, generation.prompts)
        pipe.decode(torch.zeros(1, 4, generation.height // 2, generation.width // 2))
    return counter.get_total_flops()


@pytest.mark.parametrize("calibrator", ["none", "taylorseer", "dmd", "foca"])
@pytest.mark.parametrize("ends", ["Fn=1,Bn=0", "Fn=1,Bn=1"])
def test_calibrators_work_with_and_without_blocks_at_the_end(pipe, generation, calibrator, ends):
    picture, _, cost = cached(pipe, f"threshold=1,warmup=4,calibrator={calibrator},{ends}").generate(generation)
    assert np.isfinite(picture).all()
    assert cost < 0.7
    assert not np.array_equal(picture, plain(pipe, generation))


def test_calibrators_predict_differently(pipe, generation):
    spec = "threshold=1,warmup=6,calibrator="
    none, first, second = (
        cached(pipe, spec + each).generate(generation)[0] for each in ("none", "taylorseer", "taylorseer,order=2")
    )
    assert not np.array_equal(none, first)
    assert not np.array_equal(first, second)


def test_nothing_of_it_reaches_other_pictures(pipe, generation):
    before = plain(pipe, generation)
    calls = dict(vars(StableDiffusion3Pipeline))
    diffusers = make_pipeline("sd35-large")
    options = {"num_inference_steps": 3, "height": 16, "width": 16, "output_type": "np"}

    def own() -> np.ndarray:
        return diffusers("a cat", generator=torch.Generator().manual_seed(0), **options).images

    own_before = own()
    one, other = cached(pipe, "threshold=1,warmup=2"), cached(pipe, "threshold=0")
    first = one.generate(generation)[0]
    assert np.array_equal(plain(pipe, generation), before)
    assert np.array_equal(other.generate(generation)[0], before)
    assert np.array_equal(one.generate(generation)[0], first)
    assert not np.array_equal(first, before)
    assert dict(vars(StableDiffusion3Pipeline)) == calls
    assert np.array_equal(own(), own_before)
    assert "_original_forward" not in vars(pipe.large)
    stitched = pipe("a cat", recipe="hybridstitch", num_inference_steps=STEPS, generator=torch.Generator())
    assert stitched.report.large_token_share < 1


def test_weights_are_shared(pipe):
    rival = cached(pipe, "")
    assert {each.data_ptr() for each in rival._transformer.parameters()} == {
        each.data_ptr() for each in pipe.large.parameters()
    }


def test_it_takes_part_in_a_bench_and_continues(pipe, tmp_path):
    spec = "cache-dit:threshold=1,warmup=4"
    contenders = [Contender.parse(spec, pipe.catalogue, STEPS, 4.5, None)]  # type: ignore[arg-type]
    described = {each.name: each.to_dict() for each in contenders}
    reference = Contender("reference", recipes()["large"], STEPS)

    def run() -> list:
        folder = BenchFolder(tmp_path, {}, described)
        again = [Contender.from_dict(name, each, pipe.catalogue) for name, each in folder.contenders.items()]
        assert again == contenders
        return Bench(pipe, again, reference, ["one", "two"], [0], 4.5, folder).run()

    results = run()
    found = {row.contender: row for row in rows(results)}
    assert found[spec].pictures == 2
    assert found[spec].cost < 0.8
    assert found[spec].whole.psnr_db.value < 60
    assert found[spec].inside is None
    assert run() == results
    other = Contender.parse("cache-dit:threshold=1,warmup=5", pipe.catalogue, STEPS, 4.5, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        BenchFolder(tmp_path, {}, {spec: other.to_dict()})


def test_more_blocks_than_the_model_has_are_refused(pipe):
    with pytest.raises(InvalidInput, match="Fn \\+ Bn below 5"):
        cached(pipe, "Fn=3,Bn=2")


def test_settings_stay_with_their_contender():
    text = "large@3,cache-dit:threshold=0.1,Fn=2,speed=2,cache-dit:warmup=4,small"
    assert split_specs(text) == ["large@3", "cache-dit:threshold=0.1,Fn=2", "speed=2", "cache-dit:warmup=4", "small"]
    assert read_cache_dit("cache-dit:threshold=0.1,Fn=2") == read_cache_dit("cache-dit:") | {"threshold": 0.1, "Fn": 2}


def test_every_wrong_key_is_named():
    with pytest.raises(InvalidInput) as error:
        Contender.parse(
            "cache-dit:treshold=1,Fn=0,warmup=many,calibrator=magic,Bn,Bn=1,Bn=2,threshold=nan",
            Catalogue.load(), 28, 4.5, None,  # type: ignore[arg-type]
        )  # fmt: skip
    assert [problem.got for problem in error.value.problems][:5] == ["treshold=1", "0", "many", "magic", "Bn"]
    assert len(error.value.problems) == 7
    assert "did you mean threshold" in str(error.value)


def test_the_command_names_wrong_keys_and_the_missing_package(tiny: Path, capsys, monkeypatch, tmp_path):
    (tmp_path / "prompts.txt").write_text("one\n")
    command = ["bench", "--pair", str(tiny), "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out")]
    assert main([*command, "--recipes", "cache-dit:Gn=1,Fm=2"]) == 2
    message = capsys.readouterr().err
    assert "Gn=1" in message
    assert "Fm=2" in message

    monkeypatch.setattr(bench_command, "find_spec", lambda name: None if name == "cache_dit" else find_spec(name))
    assert main([*command, "--recipes", "cache-dit:Fn=1"]) == 2
    assert "pip install 'hybridstitch[bench]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_measures_it(tiny: Path, capsys, tmp_path):
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    command = ["bench", "--pair", str(tiny), "--prompts", str(tmp_path / "prompts.txt"), "--seeds", "0", "--json"]
    command += ["--steps", "8", "--out", str(tmp_path / "out")]
    assert main([*command, "--recipes", "cache-dit:threshold=1,warmup=3,calibrator=taylorseer,large@4"]) == 0
    found = {row["contender"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert found["cache-dit:threshold=1,warmup=3,calibrator=taylorseer"]["cost"] < 0.9
    assert found["large@4"]["cost"] == 0.5
