"""How pictures are judged by themselves: retrieval, distance to real pictures, backgrounds; alone and in a bench."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from hybridstitch.bench.folder import BenchFolder, Fidelity, Result
from tests.support.sprites import SHAPES
from training import retrieval
from training.evaluate import Judge, background_hits
from training.judge import judge
from training.scenes import compose
from training.vocabulary import STYLES, Scene, caption


@pytest.mark.slow
def test_retrieval_finds_real_pictures_and_no_others(library, monkeypatch):
    monkeypatch.setattr(retrieval, "REAL_EACH", 6)
    network = retrieval.Features()
    discriminant = retrieval.fit(library, network)
    rng = random.Random(9)
    scenes = [Scene((name,), style, ("blue", "blue")) for name in SHAPES for style in STYLES]
    features = network(np.stack([compose(library, scene, 128, rng) for scene in scenes]))
    names = [scene.concepts[0] for scene in scenes]
    assert (discriminant.rank(features, names) == 0).mean() > 0.8
    assert (discriminant.rank(features, names[3:] + names[:3]) == 0).mean() < 0.3


def test_the_kernel_distance_is_zero_only_for_one_distribution():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.nn.functional.normalize(torch.randn(2, 200, 16, generator=generator).double(), dim=-1)
    other = torch.nn.functional.normalize(second + 0.3, dim=-1)
    assert abs(retrieval.kernel_distance(first, second)) < 20
    assert retrieval.kernel_distance(first, other) > 100


def test_backgrounds_are_read_off_the_edges(library):
    scenes = [Scene(("disc",), "3d", ("green", "green")), Scene(("disc",), "3d", ("pink", "black"))]
    pictures = np.stack([compose(library, scene, 128) for scene in scenes])
    assert background_hits(pictures, scenes).tolist() == [True, True]
    assert background_hits(pictures, scenes[::-1]).tolist() == [False, False]


@pytest.mark.slow
def test_the_judge_tells_right_pictures_from_wrong_ones(library):
    rng = random.Random(5)
    scenes = [Scene((rng.choice(list(SHAPES)),), "3d", ("green", "green")) for _ in range(40)]
    scenes += [Scene(("disc", "wedge"), "flat", ("white", "white"))] * 4
    judge = Judge(library, scenes)
    right = np.stack([compose(library, scene, 128, rng) for scene in scenes])
    figures = judge(right)
    assert figures["top1"] > 0.9
    assert figures["background"] == 1
    # The same pictures in another order show the wrong shapes.
    wrong = judge.intervals(np.roll(right, 1, axis=0), np.arange(44) // 2)
    assert wrong["top1"].high < figures["top1"]
    assert all(each.low <= each.value <= each.high for each in wrong.values())
    assert judge(right)["kernel_distance"] < judge(255 - right)["kernel_distance"]


@pytest.mark.slow
def test_a_bench_is_judged_contender_by_contender(library, tmp_path):
    rng = random.Random(3)
    scenes = [
        Scene((name,), style, (colour, colour)) for name in SHAPES for style in STYLES for colour in ("red", "white")
    ]
    texts = [caption(scene) for scene in scenes]
    folder = BenchFolder(tmp_path, {"texts": texts}, {"right": {}, "wrong": {}})
    same = Fidelity(99.0, 1.0, None)
    for prompt, scene in enumerate(scenes):
        picture = compose(library, scene, 128, rng)
        for contender, place in (("right", prompt), ("wrong", (prompt + 7) % len(scenes))):
            folder.save_picture(contender, place, 0, picture)
            folder.add([Result(place, 0, contender, 1.0, 1.0, 1.0, 1.0, same, None, None)])
    figures = judge(tmp_path, library, scenes)
    assert figures["right"]["top1"].value > 0.8 > figures["wrong"]["top1"].value
    assert figures["right"]["background"].value == 1
    assert (tmp_path / "quality.json").exists()
