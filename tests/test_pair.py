"""Loading a pair: what does not fit, is missing or is pickled is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridstitch import HybridStitchPipeline, InvalidInput
from tests.tiny import make_pair_folder


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
    with pytest.raises(OSError, match="safetensors"):
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
