"""The small model on another device: the same pictures, every tensor where it belongs, and both models at once."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hybridstitch import HybridStitchPipeline, Recipe, recipes
from hybridstitch.errors import InvalidInput
from hybridstitch.explain import explain
from hybridstitch.fills import Corrected, SmallRest
from hybridstitch.masks import Attribution, Disagreement
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.placement import PlacedModel
from hybridstitch.plans import Periodic, Staged
from hybridstitch.serving.config import config_problems
from hybridstitch.serving.settings import read_settings
from tests.support.devices import FIRST, SECOND, NamedDevices, home
from tests.support.handlers import CONFIG, QUICK, STITCHED, call, make_handler, pixels
from tests.support.tiny import load_pipeline

RECIPES = {name: recipes()[name] for name in ("large", "small", "two-stage", "mdd", "ras", "hybridstitch")} | {
    "corrected": Recipe(Periodic(every=3, share=0.3), Disagreement(), Corrected()),
    "small-rest": Recipe(Periodic(every=3, share=0.3), fill=SmallRest()),
    "attribution": Recipe(Staged(large=0.3, hybrid=0.4), Attribution()),
}


def generate(pipe: HybridStitchPipeline, recipe: Recipe, **options: Any) -> Tensor:
    call = {"num_inference_steps": 6, "height": 32, "width": 32, "output_type": "latent", "guidance_scale": 4.5}
    return pipe("one", recipe=recipe, generator=torch.Generator().manual_seed(0), **call | options).images


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_pictures_are_those_of_one_device(tiny: Path, tiny_pipe: HybridStitchPipeline, name: str, scale: float) -> None:
    """Every operation checks that its tensors are on one device."""
    pipe = load_pipeline(tiny)
    with NamedDevices() as devices:
        pipe.to_devices(FIRST, SECOND)
        devices.events.clear()
        found = generate(pipe, RECIPES[name], guidance_scale=scale)
        assert home(found) == FIRST
    assert torch.equal(found, generate(tiny_pipe, RECIPES[name], guidance_scale=scale))
    assert (f"copy to {SECOND}" in devices.events) == (name != "large")


@pytest.mark.parametrize("output_type", ["pt", "pil"])
def test_whole_pictures_are_generated_too(tiny: Path, output_type: str) -> None:
    pipe = load_pipeline(tiny)
    with NamedDevices():
        pipe.to_devices(FIRST, SECOND)
        assert len(generate(pipe, RECIPES["hybridstitch"], output_type=output_type)) == 1


@pytest.mark.parametrize(
    ("target", "method"), [("mask", "ablation"), ("image", "ablation"), ("image", "integrated_gradients")]
)
def test_explanations_are_those_of_one_device(
    tiny: Path, tiny_pipe: HybridStitchPipeline, target: str, method: str
) -> None:
    recipe = Recipe(Staged(large=0.4, hybrid=0.4, share=0.3), Disagreement())
    given: dict[str, Any] = {"target": target, "method": method, "recipe": recipe, "num_inference_steps": 6}
    given |= {"height": 32, "width": 32, "steps_explained": 1, "gradient_steps": 2}
    pipe = load_pipeline(tiny)
    with NamedDevices():
        pipe.to_devices(FIRST, SECOND)
        found = explain(pipe, "red apple", **given)
    wanted = explain(tiny_pipe, "red apple", **given)
    assert [word.score for word in found.words] == pytest.approx([word.score for word in wanted.words], abs=1e-5)


def test_a_tensor_that_stays_on_the_wrong_device_fails(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests rely on."""
    pipe = load_pipeline(tiny)
    with NamedDevices():
        pipe.to_devices(FIRST, SECOND)
        monkeypatch.setattr(PlacedModel, "__call__", GuidedModel.__call__)
        with pytest.raises(AssertionError, match=r"tensors on \['xpu:0', 'xpu:1'\]"):
            generate(pipe, RECIPES["hybridstitch"])


def test_nothing_is_copied_between_the_starts_of_both_models(tiny: Path) -> None:
    """A copy between two GPUs waits for the work that both have: it would run the models one after another."""
    pipe = load_pipeline(tiny)
    with NamedDevices() as devices:
        pipe.to_devices(FIRST, SECOND)
        devices.watch("large", pipe.large)
        devices.watch("small", pipe.small)
        devices.events.clear()
        generate(pipe, RECIPES["hybridstitch"], num_inference_steps=12)
    hybrid = [
        at for at, (one, other) in enumerate(pairwise(devices.events)) if (one, other) == ("large ends", "small begins")
    ]
    assert len(hybrid) == 3  # 25 % of the steps
    for at in hybrid:
        around = devices.events[at - 3 : at + 4]
        to_small, to_large = f"copy to {SECOND}", f"copy to {FIRST}"
        assert (
            around
            == [to_small, to_small, "large begins", "large ends", "small begins", "small ends", to_large][
                -len(around) :
            ]
        )


def test_a_worker_places_both_models(tiny: Path) -> None:
    """By `handler: devices`. A CPU is the only device here; one that is absent is refused by name."""
    config = {**CONFIG, "handler": {"devices": ["cpu", "cpu:0"]}}
    one, two = (make_handler("hybridstitch_handler", tiny, each) for each in (CONFIG, config))
    assert two.service.settings.small_device == torch.device("cpu:0")
    answers = [call(each, [{"body": json.dumps(QUICK | {"recipe": STITCHED}).encode()}])[0][0] for each in (one, two)]
    assert np.array_equal(*map(pixels, answers))
    with pytest.raises(InvalidInput, match=r"handler.devices: expected a device that torch finds here .*cuda:7"):
        make_handler("hybridstitch_handler", tiny, {**CONFIG, "handler": {"devices": ["cpu", "cuda:7"]}})


@pytest.mark.parametrize("wrong", ["cuda:0", ["cuda:0"], ["cuda:0", 1], ["cuda:0", "gpu"], ["cpu"] * 3, {}])
def test_other_values_of_devices_are_refused(wrong: Any) -> None:
    assert [each.field for each in config_problems({"handler": {"devices": wrong}})] == ["handler.devices"]


def test_null_devices_are_those_that_nobody_set() -> None:
    assert config_problems({"handler": {"devices": None, "offload": "model"}}) == []
    assert read_settings({"handler": {"devices": None}}, Path(), None).small_device is None


def test_devices_exclude_offloading() -> None:
    """It moves both models to one device."""
    section = {"devices": ["cuda:0", "cuda:1"], "offload": "none", "text_encoders": "device"}
    assert config_problems({"handler": section}) == []
    (found,) = config_problems({"handler": section | {"offload": "model"}})
    assert str(found).startswith("handler.devices: expected nothing beside offload, got")


def test_devices_follow_moves(tiny: Path) -> None:
    pipe = load_pipeline(tiny)
    with NamedDevices():
        assert pipe.small_device is None
        pipe.to_devices(FIRST, SECOND)
        assert (pipe.device, pipe.small_device) == (FIRST, SECOND)
        with pytest.raises(ValueError, match="offload: expected a pair on one device, got one on two"):
            pipe.offload("cpu")
        pipe.to(torch.float64)
        assert (pipe.device, pipe.small_device, pipe.small.dtype) == (FIRST, SECOND, torch.float64)
        pipe.to(FIRST)
        assert (pipe.small.device, pipe.small_device) == (FIRST, None)
        pipe.to_devices(SECOND, SECOND)
        assert (pipe.device, pipe.small_device) == (SECOND, None)
