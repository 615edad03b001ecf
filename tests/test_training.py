"""What the embedded pair is trained on and judged by: scenes, captions, the held-out list, the loop."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from training import retrieval, text
from training.data import _unambiguous
from training.models import load_tokenizer
from training.muon import orthogonalise
from training.noise import noise_levels
from training.scenes import Batch, SceneSource, batches, compose, place
from training.train import Stage, hold, load_average, run
from training.vocabulary import COLOURS, CONCEPTS, STYLES, HeldOut, Scene, article, caption, held_out


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (Scene(("red apple",), "3d", ("blue", "blue")), "red apple on blue"),
        (Scene(("red apple",), "3d", ("white", "white")), "red apple on white"),
        (Scene(("key",), "flat", ("pink", "grey"), "top left"), "small flat key at the top left on pink to grey"),
        (Scene(("cat face", "pizza"), "noto", ("red", "red")), "noto cat face and pizza on red"),
    ],
)
def test_a_caption_says_the_scene(scene, said):
    assert caption(scene) == said


@pytest.mark.parametrize(
    ("phrase", "said"), [("apple", "an apple"), ("umbrella", "an umbrella"), ("unicorn", "a unicorn"), ("key", "a key")]
)
def test_articles(phrase, said):
    assert article(phrase) == said


def test_the_held_out_list_is_about_known_things():
    concepts = CONCEPTS.read_text().splitlines()
    assert len(concepts) == len(set(concepts)) >= 500
    scenes = held_out()
    assert len(set(scenes)) == len(scenes) >= 200
    assert {scene.style for scene in scenes} == set(STYLES)
    assert {concept for scene in scenes for concept in scene.concepts} <= set(concepts)
    assert {colour for scene in scenes for colour in scene.background} == set(COLOURS)


def test_a_held_out_scene_hides_in_no_other():
    blue, red = ("blue", "blue"), ("red", "red")
    kept_back = HeldOut([Scene(("key",), "flat", blue), Scene(("bus", "pizza"), "3d", red)])
    assert Scene(("key",), "flat", blue, "top left") in kept_back
    assert Scene(("bus", "key"), "flat", blue) in kept_back
    assert Scene(("pizza", "bus"), "3d", red) in kept_back
    assert Scene(("key",), "noto", blue) not in kept_back
    assert Scene(("key",), "flat", ("blue", "red")) not in kept_back
    assert Scene(("bus",), "3d", red) not in kept_back


def test_no_training_scene_is_held_out(monkeypatch, library):
    kept_back = [Scene((name,), "flat", (colour, colour)) for name in ("disc", "block") for colour in COLOURS]
    monkeypatch.setattr("training.scenes.held_out", lambda: kept_back)
    source = SceneSource(library, seed=0)
    drawn = [source()[0] for _ in range(1500)]
    plain_and_flat = [each for each in drawn if each.style == "flat" and each.background[0] == each.background[1]]
    assert {scene.concepts for scene in plain_and_flat} == {("wedge",)}
    assert {len(scene.concepts) for scene in drawn} == {1, 2}
    assert all(len(set(scene.concepts)) == len(scene.concepts) for scene in drawn)
    assert any(scene.corner for scene in drawn)


def test_keywords_name_one_concept_and_nothing_else():
    kept = _unambiguous(
        {"taxi": ["cab", "yellow", "Car", "top"], "bus": ["car", "coach", "taxi", "<3", "public transport hub"]}
    )
    assert kept == {"taxi": ["cab"], "bus": ["coach"]}


def test_a_tokenizer_is_read_back_as_it_was_made(library, tmp_path):
    first, again = (load_tokenizer(tmp_path, library) for _ in range(2))
    text = "a flat disc on blue, quickly jumped?! 50% (é)"
    assert first(text).input_ids == again(text).input_ids
    assert first(text).input_ids.count(first.eos_token_id) == 1
    assert first.decode(first(text).input_ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    assert first.model_max_length == 32


def test_objects_stand_where_the_caption_says(library):
    for corner in ("top left", "bottom right"):
        scene = Scene(("disc",), "flat", ("white", "black"), corner)
        picture = compose(library, scene, 64, random.Random(3)).astype(int)
        assert (picture[0, 40] == COLOURS["white"]).all()
        assert (picture[-1, 20] == COLOURS["black"]).all()
        red = (picture[..., 0] - picture[..., 1]) > 60
        rows, columns = np.nonzero(red)
        assert (rows.mean() < 32) == corner.startswith("top")
        assert (columns.mean() < 32) == corner.endswith("left")


def test_of_two_objects_the_first_stands_on_the_left(library):
    picture = compose(library, Scene(("block", "disc"), "3d", ("white", "white")), 64)
    left, right = retrieval.halves(picture)
    block, disc = ((half[..., 0] < 128).mean() for half in (left, right))
    assert block > disc * 1.1


def test_a_scene_is_described_object_by_object(library):
    looks = text.picture_features(library)
    scene = Scene(("disc", "wedge"), "flat", ("blue", "red"))
    row = text.describe(scene, looks)
    width = text.TOKENS * text.FEATURES
    np.testing.assert_allclose(row[-2 * width :], np.concatenate([looks[name, "flat"] for name in scene.concepts]))
    alone = text.describe(Scene(("disc",), "flat", ("blue", "red")), looks)
    assert len(alone) == len(row)
    assert not alone[-width:].any()


def test_batches_are_pictures_between_minus_one_and_one(library):
    pixels, captions = next(batches(library, 32, 6, seed=1))
    assert pixels.shape == (6, 3, 32, 32)
    assert -1 <= pixels.min() < pixels.max() <= 1
    assert len(captions) == 6


def test_muon_evens_out_singular_values():
    matrices = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert ((values > 0.6) & (values < 1.3)).all()


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_levels_spread_evenly_in_random_order(shift):
    torch.manual_seed(0)
    first, second = (noise_levels(16, shift, torch.device("cpu")) for _ in range(2))
    unshifted = first / (shift - (shift - 1) * first)
    shares = (16 * torch.special.ndtr(unshifted.logit())).floor().int().tolist()
    assert sorted(shares) == list(range(16))
    assert shares != sorted(shares)
    assert (first.argsort() != second.argsort()).any()


def test_a_stage_goes_on_where_it_stopped_and_keeps_the_average(tmp_path):
    def numbers(seed: int) -> Iterator[Batch]:
        while True:
            yield torch.ones(4, 1), [""] * 4

    def stage(minutes: float, full_rate: float = 0.01) -> Stage:
        torch.manual_seed(0)
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.AdamW(model.parameters(), full_rate)
        return Stage("line", minutes, model, [optimizer], lambda m, b, _: m(b[0]).square().mean(), hold, numbers)

    def steps() -> int:
        return load_average(tmp_path, "line", torch.nn.Linear(1, 1)).step

    run(stage(0.01), tmp_path, torch.device("cpu"))
    first = steps()
    run(stage(0.01), tmp_path, torch.device("cpu"))
    assert steps() == first > 0
    longer = stage(0.02, full_rate=0.02)
    run(longer, tmp_path, torch.device("cpu"))
    assert steps() > first
    assert longer.optimizers[0].param_groups[0]["lr"] == 0.02  # the stage's own, not the checkpoint's
    average = torch.nn.Linear(1, 1)
    load_average(tmp_path, "line", average)
    assert average(torch.ones(1, 1)).abs() < 0.5


def test_places_keep_objects_inside_the_picture():
    rng = random.Random(0)
    for scene in (Scene(("a",), "3d", ("red", "red")), Scene(("a", "b"), "3d", ("red", "red"))):
        for x, y, side in place(scene, rng):
            assert side / 2 - 0.06 <= min(x, y)
            assert max(x, y) <= 1 - side / 2 + 0.06
