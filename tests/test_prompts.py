"""Warnings about texts that a text encoder does not read to their end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hybridstitch import HybridStitchPipeline

# The tokenizers of the tiny pair have a token a letter and two more, and a window of 16.
LONG = "abcdefghijklmnopqrs"
BOTH = "21 tokens, of which text_encoder and text_encoder_2 (CLIP) read the first 16: 5 are not read"
SECOND = "21 tokens, of which text_encoder_2 (CLIP) reads the first 16: 5 are not read"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({"prompt": "a dog"}, []),
        ({"prompt": LONG}, [f"prompt: {BOTH}"]),
        ({"prompt": ["a dog", LONG]}, [f"prompt[1]: {BOTH}"]),
        ({"prompt": "a dog", "prompt_2": LONG}, [f"prompt_2: {SECOND}"]),
        ({"prompt": "a dog", "negative_prompt": LONG}, [f"negative_prompt: {BOTH}"]),
        ({"prompt": "a dog", "negative_prompt_2": LONG}, [f"negative_prompt_2: {SECOND}"]),
        (
            {"prompt": "a dog", "negative_prompt": "red", "guidance_scale": 1},
            ["negative_prompt: has no effect without guidance, which needs a scale above 1"],
        ),
    ],
)
def test_every_text_that_is_cut_is_named(tiny_pipe: HybridStitchPipeline, call: dict, expected: Sequence[str]):
    out = tiny_pipe(**{"guidance_scale": 3.0, **call}, num_inference_steps=1, recipe="large", output_type="latent")
    assert out.report.warnings == expected
