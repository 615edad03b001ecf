"""The mark of generated pictures: in every kind of file, read by programs of others, and off where that is wanted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hybridstitch import HybridStitchPipeline, __version__
from hybridstitch.base.images import encode_image
from hybridstitch.base.mark import mark
from hybridstitch.cli.main import main
from tests.support.marks import SOURCE, UNMARKED, mark_of

KINDS = ("png", "jpeg", "webp")
MARKED = (SOURCE, f"hybridstitch {__version__}")
QUICK = ["generate", "a red apple", "--seed", "3", "--num-inference-steps", "2"]


def opened(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mark_is_read_by_others_and_changes_no_pixel(picture: Image.Image, kind: str) -> None:
    plain = encode_image(picture, kind, {"key": "a text"}, quality=90)
    mark(picture)
    marked = encode_image(picture, kind, {"key": "a text"}, quality=90)
    assert mark_of(plain) == UNMARKED
    assert mark_of(marked) == MARKED
    assert np.array_equal(np.asarray(opened(marked)), np.asarray(opened(plain)))
    assert opened(marked).info.get("key") == ("a text" if kind == "png" else None)
    assert encode_image(picture, kind, {"key": "a text"}, quality=90) == marked


@pytest.mark.parametrize("kind", KINDS)
def test_a_marked_file_that_is_written_again_stays_marked(picture: Image.Image, kind: str) -> None:
    mark(picture)
    assert mark_of(encode_image(opened(encode_image(picture, kind)), "jpeg")) == MARKED


def test_the_packet_of_another_tool_is_not_taken_over(picture: Image.Image) -> None:
    picture.info["xmp"] = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b" " * 100_000  # JPEG has no room for it
    assert mark_of(encode_image(picture, "jpeg")) == UNMARKED


def test_the_pipelines_pictures_carry_it_unless_it_is_off(tiny: Path) -> None:
    pipe = HybridStitchPipeline.from_pretrained(tiny)
    (picture,) = pipe("x", num_inference_steps=1).images
    assert mark_of(encode_image(picture, "png")) == MARKED
    latents = pipe("x", num_inference_steps=1, output_type="latent").images
    assert pipe.decode(latents, "np").shape[-1] == 3  # an array has no place for a mark
    pipe.marks = False
    (picture,) = pipe.decode(latents)
    assert mark_of(encode_image(picture, "png")) == UNMARKED


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_generate_writes_it_unless_it_is_off(tiny: Path, tmp_path: Path, suffix: str) -> None:
    written = []
    for options in ([], ["--no-mark"]):
        out = tmp_path / f"picture{len(written)}.{suffix}"
        overlay = out.with_stem(f"{out.stem}-overlay")
        paths = ["--pair", str(tiny), "--out", str(out), "--mask-overlay", str(overlay)]
        assert main([*QUICK, *paths, *options]) == 0
        written.append((out.read_bytes(), overlay.read_bytes()))
    for each in zip(*written, strict=True):
        assert [mark_of(picture) for picture in each] == [MARKED, UNMARKED]
        assert np.array_equal(*[np.asarray(opened(picture)) for picture in each])


def test_a_servers_pictures_cannot_be_unmarked_by_its_client(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--url", "http://127.0.0.1:9", "--no-mark"]) == 2
    assert "no-mark: expected nothing beside --url" in capsys.readouterr().err
