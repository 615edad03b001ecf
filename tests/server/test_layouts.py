"""Every layout of SD3 models loads, packs and starts a worker, or is refused with what to do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hybridstitch import HybridStitchPipeline
from hybridstitch.errors import InvalidInput
from hybridstitch.serving.server.pack import pack
from tests.support.handlers import QUICK, call, make_handler
from tests.support.layouts import LAYOUTS, Layout, make_two

WORKERS = ("sharded", "hub ids without third text encoder", "fp16 alone, sharded", "small transformer only")
"""Layouts whose archive also starts a worker, stitched and plain."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_two(tmp_path_factory.mktemp("two"))


@pytest.fixture
def folder(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both models, to change, and a cache of huggingface_hub that no connection fills."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "two" / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copytree(two, tmp_path / "two")
    return tmp_path / "two"


def latents(pipe: HybridStitchPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    return pipe("a dog", num_inference_steps=4, generator=generator, output_type="latent").images


def archived(layout: Layout, folder: Path, **options: object) -> Path:
    return pack(
        **layout.source(folder), **layout.options, out=folder.parent / "store", archive_format="link", **options
    )


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.refused is None])
def test_a_layout_loads_and_its_archive_gives_the_same_pictures(name: str, folder: Path) -> None:
    layout = LAYOUTS[name]
    layout.prepare(folder)
    loaded = HybridStitchPipeline.from_pretrained(**layout.source(folder), **layout.options)
    pair = archived(layout, folder) / "pair"
    packed = HybridStitchPipeline.from_pretrained(pair)
    assert torch.equal(latents(loaded), latents(packed))
    has_third = layout.options.get("without") is None and name not in ("no third text encoder", "exchanged")
    assert [pipe.components["text_encoder_3"] is not None for pipe in (loaded, packed)] == [has_third] * 2
    files = [path for path in pair.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pt", ".bin", ".ckpt", ".pth") or path.name == "LICENSE"]
    kinds = set()
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as opened:
                kinds |= {opened.get_slice(tensor).get_dtype() for tensor in opened.keys()}  # noqa: SIM118
    assert kinds == ({"F16"} if "variant" in layout.options else {"F32"})


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.refused is not None])
def test_a_layout_that_cannot_be_loaded_is_refused_alike_by_both(name: str, folder: Path) -> None:
    layout = LAYOUTS[name]
    layout.prepare(folder)
    assert layout.refused is not None
    field, words = layout.refused
    said = []
    for attempt in (
        lambda: HybridStitchPipeline.from_pretrained(**layout.source(folder), **layout.options),
        lambda: archived(layout, folder),
    ):
        with pytest.raises(InvalidInput) as refused:
            attempt()
        first = refused.value.problems[0]
        assert first.field.endswith(field)
        assert words in first.expected
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert not [*(folder.parent / "store").glob("*")]


@pytest.mark.parametrize("name", WORKERS)
def test_the_archive_of_a_layout_starts_both_kinds_of_worker(name: str, folder: Path) -> None:
    layout = LAYOUTS[name]
    layout.prepare(folder)
    for handler in ("hybridstitch_handler", "plain_sd3_handler"):
        if handler == "plain_sd3_handler":
            source = {"large": layout.source(folder)["large"], "plain": True}
            archive = pack(**source, **layout.options, out=folder.parent / "store", archive_format="link")
        else:
            archive = archived(layout, folder)
        answers, _ = call(make_handler(handler, archive / "pair"), [{"body": QUICK}])
        assert answers[0].startswith(b"\x89PNG")


def test_exchanged_models_are_named_as_slow(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    LAYOUTS["exchanged"].prepare(folder)
    HybridStitchPipeline.from_pretrained(**LAYOUTS["exchanged"].source(folder))
    assert "slower, than the plain large model; are the two the same, or exchanged?" in caplog.text


def test_a_link_takes_no_second_copy(folder: Path) -> None:
    """Weights are the same files; what is small is copied, so that edits of a source do not reach the archive."""
    layout = LAYOUTS["whole"]
    pair = archived(layout, folder) / "pair"
    for path in pair.rglob("*"):
        if path.is_file():
            source = folder / "large" / path.relative_to(pair)
            if path.relative_to(pair).parts[0] == "transformer_small":
                source = folder / "small" / "transformer" / path.name
            assert os.path.samefile(path, source) == (path.suffix == ".safetensors")
            assert not path.is_symlink()
