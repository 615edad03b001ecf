"""Explanations of the embedded pair point to where the words are, and those of a random model do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hybridstitch import HybridStitchPipeline
from hybridstitch.base.prompt_files import read_prompts
from hybridstitch.explain import Explanation, explain
from tests.support.pointing import heat_of, object_tokens, points_to
from tests.support.tiny import load_pipeline

pytestmark = pytest.mark.slow

SETTINGS = {"target": "image", "recipe": "large", "num_inference_steps": 8, "steps_explained": 3}


@pytest.fixture(scope="module")
def prompts(emoji: Path) -> list[str]:
    """Held-out prompts with something on a colour."""
    found = [prompt for prompt in read_prompts(emoji / "heldout_prompts.txt", 200) if " on " in prompt]
    return [prompt for prompt in found if " in the " not in prompt]


@pytest.fixture(scope="module")
def alone(emoji_pipe: HybridStitchPipeline, prompts: list[str]) -> dict[str, Explanation]:
    """Explanations of scenes with one object."""
    chosen = [prompt for prompt in prompts if " and " not in prompt][:30]
    return {prompt: explain(emoji_pipe, prompt, seed=seed, **SETTINGS) for seed, prompt in enumerate(chosen)}


def object_hits(explained: dict[str, Explanation], places: dict[str, np.ndarray]) -> list[bool]:
    return [
        points_to(heat_of(found.words, found.heatmaps, 0, prompt.index(" on ")), places[prompt])
        for prompt, found in explained.items()
    ]


def places_of(explained: dict[str, Explanation]) -> dict[str, np.ndarray]:
    return {prompt: object_tokens(found.image, prompt, found.heatmaps.shape[1:]) for prompt, found in explained.items()}


def test_objects_words_point_to_the_object_and_colours_to_the_background(alone):
    places = places_of(alone)
    objects = object_hits(alone, places)
    colours = [
        points_to(heat_of(found.words, found.heatmaps, prompt.index(" on ") + 4, len(prompt)), ~places[prompt])
        for prompt, found in alone.items()
    ]
    chance = float(np.mean(list(places.values())))
    assert len(alone) == 30
    assert np.mean(objects) >= 0.8 > chance + 0.3
    assert np.mean(colours) >= 0.8
    # Colours are chance's favourites, the background being most of the picture: so they beat it heat by heat, too.
    share = [
        float(heat[~places[prompt]].mean() / heat.mean())
        for prompt, found in alone.items()
        for heat in [heat_of(found.words, found.heatmaps, prompt.index(" on ") + 4, len(prompt))]
    ]
    assert np.median(share) > 1


def test_of_two_objects_each_has_its_own_side(emoji_pipe, prompts):
    hits = []
    for seed, prompt in enumerate([prompt for prompt in prompts if " and " in prompt][:12]):
        found = explain(emoji_pipe, prompt, seed=seed, **SETTINGS)
        first, second = prompt.index(" and "), prompt.index(" on ")
        left = np.zeros(found.heatmaps.shape[1:], bool)
        left[:, : left.shape[1] // 2] = True
        hits.append(points_to(heat_of(found.words, found.heatmaps, 0, first), left))
        hits.append(points_to(heat_of(found.words, found.heatmaps, first + 5, second), ~left))
    assert np.mean(hits) >= 0.7


@pytest.fixture
def random_large(emoji: Path) -> HybridStitchPipeline:
    """The pair with a large model that was never trained."""
    pipe = load_pipeline(emoji)
    torch.manual_seed(0)
    for module in pipe.large.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
    return pipe


def test_a_model_with_random_weights_points_nowhere(alone, random_large):
    places = {prompt: place for prompt, place in list(places_of(alone).items())[:15]}
    shuffled = {
        prompt: explain(random_large, prompt, seed=seed, **{**SETTINGS, "steps_explained": 1})
        for seed, prompt in enumerate(places)
    }
    hits, chance = object_hits(shuffled, places), float(np.mean(list(places.values())))
    three_errors = 3 * (chance * (1 - chance) / len(hits)) ** 0.5
    assert np.mean(hits) < chance + three_errors < 0.8


@pytest.mark.parametrize(("target", "recipe"), [("image", "large"), ("mask", "hybridstitch")])
def test_integrated_gradients_are_complete_at_the_default_steps(emoji_pipe, target, recipe):
    found = explain(
        emoji_pipe,
        "red apple on blue",
        target=target,
        method="integrated_gradients",
        recipe=recipe,
        num_inference_steps=8,
        steps_explained=1,
        width=64,
        height=64,
        seed=3,
    )
    assert found.convergence_delta is not None
    assert found.convergence_delta < 0.05
