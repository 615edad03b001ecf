"""Prompts as both models read them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor


class PromptEncoder:
    """The text encoders of a pipeline.

    clip_length: how many tokens of a prompt the two CLIP encoders read.
    text_length: how many the third one reads by default; 0 without it.
    """

    def __init__(self, pipeline: StableDiffusion3Pipeline):
        self._pipeline = pipeline
        self.clip_length: int = pipeline.tokenizer_max_length
        self.text_length = 0 if pipeline.text_encoder_3 is None else 256

    def __call__(self, guided: bool, **prompts: Any) -> tuple[Tensor, Tensor]:
        """Embeddings `(prompts, text tokens, width)` and `(prompts, width)`; with guidance the negative half first.

        prompts: as diffusers' `encode_prompt` takes them.
        """
        positive, negative, pooled, negative_pooled = self._pipeline.encode_prompt(
            do_classifier_free_guidance=guided, **prompts
        )
        if not guided:
            return positive, pooled
        return torch.cat([negative, positive]), torch.cat([negative_pooled, pooled])

    def alone(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """The same of prompts without a negative half. They keep their gradients, unless gradients are off."""
        return self(False, prompt=prompts, prompt_2=None, prompt_3=None, max_sequence_length=self.text_length)

    def warnings(self, prompt: str | list[str] | None) -> list[str]:
        """A warning for every prompt that the CLIP text encoders cannot read to its end."""
        texts = [prompt] if isinstance(prompt, str) else prompt or []
        lengths = [len(self._pipeline.tokenizer(text).input_ids) for text in texts]
        limit = self.clip_length
        return [f"prompt: {n} tokens, of which CLIP reads the first {limit}" for n in lengths if n > limit]
