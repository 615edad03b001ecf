"""What the tests of this folder call the pipelines with."""

from __future__ import annotations

import inspect

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from hybridstitch import HybridStitchPipeline, InvalidInput, Recipe
from hybridstitch.plans import Staged

CALL = {"num_inference_steps": 3, "guidance_scale": 3.5, "output_type": "latent"}
MASKED = Recipe(Staged(large=0.4, hybrid=0.6, share=0.3))
THEIRS = inspect.signature(StableDiffusion3Pipeline.__call__).parameters
OURS = inspect.signature(HybridStitchPipeline.__call__).parameters


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embeds(pipe: HybridStitchPipeline, prompt: str | list[str] = "a dog") -> dict[str, torch.Tensor]:
    found = pipe.encode_prompt(prompt, negative_prompt="blue")
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    return dict(zip(names, found, strict=True))


def refused(pipe: HybridStitchPipeline, **call) -> set[str]:
    with pytest.raises(InvalidInput) as caught:
        pipe(**call)
    return {problem.field for problem in caught.value.problems}
