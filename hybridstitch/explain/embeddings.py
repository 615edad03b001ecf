"""A prompt as token embeddings, the input of the text encoders, with the word that each token belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from hybridstitch.base.words import Word
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.explain.reading import Readings
from hybridstitch.explain.targets import Texts
from hybridstitch.model.prompts import ENCODERS, Encoding
from hybridstitch.pipeline import HybridStitchPipeline


@dataclass(frozen=True)
class Embedded:
    """A prompt in each text encoder of a pipeline.

    Attributes:
        pipeline: The pair.
        readings: The texts that the encoders read.
        words: The number of words.
        inputs: Embeddings `(1, tokens, width)` of the tokens, one tensor for each encoder.
        baselines: The same with padding in the place of words.
        owners: For each encoder, the number of the word that each token belongs to, -1 for none.
        how: How the encoders read prompts.
    """

    pipeline: HybridStitchPipeline
    readings: Readings
    words: int
    inputs: tuple[Tensor, ...]
    baselines: tuple[Tensor, ...]
    owners: tuple[Tensor, ...]
    how: Encoding

    @classmethod
    def of(cls, pipeline: HybridStitchPipeline, readings: Readings, words: Sequence[Word], how: Encoding) -> Self:
        """Embed a prompt as each encoder reads it.

        Raises:
            InvalidInput: A tokenizer does not report the characters of a token.
        """
        inputs, baselines, owners = [], [], []
        for (tokenizer, encoder), text in zip(_encoders(pipeline), readings.texts, strict=False):
            if not tokenizer.is_fast:
                expected = "ablation: a tokenizer of this pair does not report the characters of a token"
                raise InvalidInput([Problem("method", expected, "integrated_gradients")])
            length = pipeline.prompts.length(how) if encoder is pipeline.components["text_encoder_3"] else None
            tokens = tokenizer(
                text,
                padding="max_length",
                max_length=length or pipeline.prompts.clip_length,
                truncation=True,
                return_offsets_mapping=True,
                return_tensors="pt",
            )
            owner = torch.tensor([_owner(words, *span) for span in tokens["offset_mapping"][0].tolist()])
            embed = _tables(encoder)[0]
            ids = tokens["input_ids"].to(embed.weight.device)
            padding = ids.masked_fill((owner >= 0).to(ids.device)[None], tokenizer.pad_token_id)
            inputs.append(embed(ids).detach())
            baselines.append(embed(padding).detach())
            owners.append(owner)
        return cls(pipeline, readings, len(words), tuple(inputs), tuple(baselines), tuple(owners), how)

    def encode(self, embeddings: Sequence[Tensor]) -> Texts:
        """Encode embeddings `(prompts, tokens, width)` of the prompt, one tensor for each encoder."""
        with _embedded_as(self.pipeline, embeddings):
            texts = [[text] * embeddings[0].shape[0] for text in self.readings.texts]
            return Texts(*self.pipeline.prompts.alone(*texts, how=self.how))

    def by_word(self, attributed: Sequence[Tensor]) -> list[float]:
        """Return the sum of attributions for each word, over tokens, width and encoders."""
        scores = torch.zeros(self.words + 1, dtype=torch.float64)
        for owner, each in zip(self.owners, attributed, strict=True):
            scores.index_add_(0, owner % (self.words + 1), each[0].double().sum(dim=-1).cpu())
        return scores[:-1].tolist()


@contextmanager
def _embedded_as(pipeline: HybridStitchPipeline, embeddings: Sequence[Tensor]) -> Iterator[None]:
    """Replace the token embeddings of the encoders by these while the context is open."""
    with ExitStack() as stack:
        for (_, encoder), given in zip(_encoders(pipeline), embeddings, strict=True):
            for table in _tables(encoder):
                hook = table.register_forward_hook(lambda *_, given=given: given)
                stack.callback(hook.remove)
        yield


def _encoders(pipeline: HybridStitchPipeline) -> list[tuple[Any, nn.Module]]:
    parts = pipeline.components
    return [(parts[tokenizer], parts[encoder]) for tokenizer, encoder in ENCODERS if parts[encoder] is not None]


def _tables(encoder: Any) -> list[nn.Embedding]:
    """Return the encoder's embedding of its vocabulary; T5 has it under two names."""
    size = encoder.config.vocab_size
    return [each for each in encoder.modules() if isinstance(each, nn.Embedding) and each.num_embeddings == size]


def _owner(words: Sequence[Word], start: int, end: int) -> int:
    return next((number for number, word in enumerate(words) if start < word.end and word.start < end), -1)
