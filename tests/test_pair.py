"""Loading a pair: what does not fit, is missing or is pickled is refused by name."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hybridstitch import Catalogue, HybridStitchPipeline, InvalidInput
from hybridstitch.model.pair import LOADERS, SHARED, check_fit, find_files
from tests.support.tiny import make_pair_folder, make_pipeline

CONFIGS = {"scheduler": "scheduler_config.json"}


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_two_pipelines_that_do_not_fit_are_refused_with_both_values(tmp_path):
    large = make_pair_folder(tmp_path / "large")
    small = make_pair_folder(tmp_path / "small")
    assert HybridStitchPipeline.from_pretrained(large=large, small=small)
    change(small / "transformer" / "config.json", joint_attention_dim=64)
    change(small / "vae" / "config.json", scaling_factor=0.7)
    change(small / "scheduler" / "scheduler_config.json", shift=1.0)
    with pytest.raises(InvalidInput) as caught:
        HybridStitchPipeline.from_pretrained(large=large, small=small)
    named = {problem.field: (problem.expected, problem.got) for problem in caught.value.problems}
    assert named == {
        "transformer.joint_attention_dim": ("32, as the large model has it", 64),
        "vae.scaling_factor": ("1.5, as the large model has it", 0.7),
        "scheduler.shift": ("3.0, as the large model has it", 1.0),
    }


def test_a_folder_that_is_no_pair_says_what_is_missing(tmp_path):
    make_pair_folder(tmp_path)
    shutil.rmtree(tmp_path / "transformer_small")
    with pytest.raises(InvalidInput, match="transformer_small"):
        HybridStitchPipeline.from_pretrained(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    make_pair_folder(tmp_path)
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(InvalidInput, match="safetensors"):
        HybridStitchPipeline.from_pretrained(tmp_path)


def test_a_pipeline_that_the_loop_cannot_work_with_is_refused(tmp_path):
    make_pair_folder(tmp_path)
    change(tmp_path / "vae" / "config.json", latent_channels=8)
    scheduler = {"_class_name": "FlowMatchHeunDiscreteScheduler", "use_dynamic_shifting": True}
    change(tmp_path / "scheduler" / "scheduler_config.json", **scheduler)
    with pytest.raises(InvalidInput) as caught:
        HybridStitchPipeline.from_pretrained(tmp_path)
    fields = ["vae.latent_channels", "scheduler._class_name", "scheduler.use_dynamic_shifting"]
    assert [problem.field for problem in caught.value.problems] == fields


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two pipelines whose every shared setting has the value that its class gives it."""
    folder = tmp_path_factory.mktemp("two")
    make_pipeline("sd35-large").save_pretrained(folder / "large")
    for part, names in SHARED.items():
        defaults = inspect.signature(LOADERS[part].__init__).parameters
        plain = {name: defaults[name].default for name in names if name in defaults}
        change(folder / "large" / part / CONFIGS.get(part, "config.json"), **plain)
    change(folder / "large" / "transformer" / "config.json", in_channels=4)
    change(folder / "large" / "vae" / "config.json", latent_channels=4)
    shutil.copytree(folder / "large", folder / "small")
    return folder / "large", folder / "small"


@pytest.mark.parametrize("side", ["large", "small"])
def test_a_setting_that_an_older_diffusers_left_out_has_its_default(two: tuple[Path, Path], side: str) -> None:
    for part, names in SHARED.items():
        path = two[side == "small"] / part / CONFIGS.get(part, "config.json")
        written = path.read_text()
        for name in {*names} - {"in_channels"}:
            path.write_text(json.dumps({key: value for key, value in json.loads(written).items() if key != name}))
            check_fit(find_files(None, *two))
        path.write_text(written)


@pytest.mark.parametrize("variant", ["fp16", None])
@pytest.mark.parametrize("kind", ["packed", "two folders"])
def test_a_variant_is_loaded_where_a_part_has_it(tmp_path: Path, variant: str | None, kind: str) -> None:
    pair = make_pair_folder(tmp_path / "pair")
    source = {"folder": pair} if kind == "packed" else {"large": pair, "small": pair}
    for part in ("transformer", "text_encoder"):
        path = next((pair / part).glob("*.safetensors"))
        ones = {name: torch.ones_like(value) for name, value in load_file(path).items()}
        save_file(ones, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
    for folder in (pair, *filter(Path.is_dir, pair.iterdir())):
        (folder / "LICENSE").touch()  # a name without a dot
    pipe = HybridStitchPipeline.from_pretrained(**source, variant=variant)
    is_ones = [bool((next(model.parameters()) == 1).all()) for model in (pipe.large, pipe.components["text_encoder"])]
    assert is_ones == [variant == "fp16"] * 2
    assert not any(part.training for part in pipe.components.values() if isinstance(part, torch.nn.Module))
    assert bool((next(pipe.small.parameters()) == 1).all()) == (variant == "fp16" and kind == "two folders")


def test_a_variant_that_is_missing_or_needed_is_named(tmp_path: Path) -> None:
    pair = make_pair_folder(tmp_path / "pair")
    with pytest.raises(InvalidInput, match=r"variant: .*\*\.fp16\.safetensors"):
        HybridStitchPipeline.from_pretrained(pair, variant="fp16")
    weights = pair / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(InvalidInput, match="variant='fp16'"):
        HybridStitchPipeline.from_pretrained(pair)
    assert HybridStitchPipeline.from_pretrained(pair, variant="fp16")


@pytest.mark.parametrize(
    ("source", "field", "words"),
    [
        ({}, "pair", "or large and small"),
        ({"folder": "PIPELINE"}, "pair", "give large and small"),
        ({"folder": "nowhere"}, "pair", "no such folder"),
        ({"folder": "stabilityai/stable-diffusion-3.5-large"}, "pair", "give large and small"),
        ({"large": "stabilityai/stable-diffusion-3.5-large"}, "small", "both large and small"),
        ({"small": "stabilityai/stable-diffusion-3.5-large"}, "large", "both large and small"),
        ({"large": __file__, "small": "PIPELINE"}, "large", "not a file"),
        ({"large": "./nowhere/at/all", "small": "PIPELINE"}, "large", "no such folder"),
        ({"folder": "PIPELINE", "large": "PIPELINE"}, "pair", "either a packed pair, or large and small"),
    ],
)
def test_a_wrong_source_names_what_to_give(tmp_path: Path, source: dict[str, Any], field: str, words: str) -> None:
    if "PIPELINE" in source.values():
        make_pipeline("sd35-large").save_pretrained(tmp_path / "one")
    given = {name: tmp_path / "one" if value == "PIPELINE" else value for name, value in source.items()}
    with pytest.raises(InvalidInput) as caught:
        HybridStitchPipeline.from_pretrained(**given)
    (problem,) = caught.value.problems
    assert (problem.field, words in problem.expected) == (field, True), str(problem)


def test_recipes_come_from_a_pair_or_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InvalidInput, match="pair: "):
            Catalogue.load().of_pair(folder)
