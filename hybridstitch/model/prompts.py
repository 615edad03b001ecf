"""Prompts as the text encoders of both models read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from hybridstitch.model.offload import Offload
from hybridstitch.model.prompt_cache import PromptCache

TEXTS = ("prompt", "prompt_2", "prompt_3")
NEGATIVE_TEXTS = ("negative_prompt", "negative_prompt_2", "negative_prompt_3")
EMBEDS = ("prompt_embeds", "pooled_prompt_embeds")
NEGATIVE_EMBEDS = ("negative_prompt_embeds", "negative_pooled_prompt_embeds")
Embeddings = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
"""cond, uncond, pooled cond and pooled uncond, in the order of diffusers; uncond is None without guidance."""
ENCODERS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"), ("tokenizer_3", "text_encoder_3"))
"""Names of tokenizers and encoders, in the order of the texts that they read."""


@dataclass(frozen=True)
class Prompts:
    """What the text encoders read.

    Attributes:
        texts: one string for each prompt, under each of diffusers' names that was given.
        embeds: the embeddings that were given, under diffusers' names.
        count: number of prompts; None if the arguments do not determine it.
    """

    texts: dict[str, list[str]]
    embeds: dict[str, Tensor]
    count: int | None


@dataclass(frozen=True)
class Encoding:
    """How the text encoders read prompts.

    Attributes:
        images: number of pictures of each prompt.
        clip_skip: number of CLIP's last layers to skip.
        text_length: number of tokens that the third encoder reads; None for the default of the pair.
        lora_scale: weight of the encoders' LoRA adapters; None leaves it as it is.
    """

    images: int = 1
    clip_skip: int | None = None
    text_length: int | None = None
    lora_scale: float | None = None


AS_DEFAULT = Encoding()
"""One picture of each prompt, read as the pair does by default."""


class PromptEncoder:
    """The text encoders of a pipeline.

    Attributes:
        clip_length: number of tokens of a prompt that the two CLIP encoders read.
        text_length: number that the third encoder reads by default; 0 without it.
        cache: of embeddings by their texts. It keeps nothing unless its `limit` is set.
    """

    def __init__(self, pipeline: StableDiffusion3Pipeline):
        self._pipeline = pipeline
        self.clip_length: int = pipeline.tokenizer_max_length
        self.text_length = 0 if pipeline.text_encoder_3 is None else 256
        self.cache = PromptCache()
        self.offloaded: Offload | None = None

    def __call__(self, guided: bool, prompts: Prompts, how: Encoding = AS_DEFAULT) -> tuple[Tensor, Tensor]:
        """Embeddings `(pictures, text tokens, width)` and pooled ones `(pictures, width)`; with guidance uncond first.

        Args:
            guided: whether to encode uncond, too.
            prompts: texts or embeddings.
            how: how they are read.
        """
        cond, uncond, pooled, pooled_uncond = self.encode(guided, prompts, how)
        if uncond is None or pooled_uncond is None:
            return cond, pooled
        return torch.cat([uncond, cond]), torch.cat([pooled_uncond, pooled])

    def cached(self, guided: bool, prompts: Prompts, how: Encoding) -> tuple[Tensor, Tensor]:
        """The same embeddings, from the cache if it has them. The caller must not change them, nor need gradients."""
        if prompts.embeds:
            return self(guided, prompts, how)
        texts = tuple((name, tuple(each)) for name, each in sorted(prompts.texts.items()))
        return self.cache.get((guided, texts, how, self._state()), lambda: self(guided, prompts, how))

    def _state(self) -> tuple[Any, ...]:
        """What embeddings depend on beside the prompt: tokenizers, encoders, and changes of their weights in place."""
        found: list[Any] = []
        for names in ENCODERS:
            tokenizer, encoder = (getattr(self._pipeline, name) for name in names)
            # An encoder that is offloaded has other addresses at each turn.
            places = self.offloaded is None
            weights = [(places and each.data_ptr(), each._version) for each in encoder.parameters()] if encoder else []
            found.append((id(tokenizer), id(encoder), str(encoder and encoder.dtype), hash(tuple(weights))))
        return tuple(found)

    def encode(self, guided: bool, prompts: Prompts, how: Encoding) -> Embeddings:
        """The same embeddings, unstacked, as diffusers' `encode_prompt` returns them."""
        like = self._pipeline.text_encoder
        where = like.device if self.offloaded is None else self.offloaded.text_device
        given = {name: each.to(where, like.dtype) for name, each in prompts.embeds.items()}
        texts = {name: prompts.texts.get(name) for name in TEXTS + NEGATIVE_TEXTS}
        found = self._pipeline.encode_prompt(
            **texts, **given, device=None if self.offloaded is None else where, num_images_per_prompt=how.images,
            do_classifier_free_guidance=guided, clip_skip=how.clip_skip, lora_scale=how.lora_scale,
            max_sequence_length=self.length(how),
        )  # fmt: skip
        if self.offloaded is not None:
            self.offloaded.stage.leave()  # the transformers need the room
        # diffusers repeats what it encodes, but not the embeddings that it is given.
        names = (EMBEDS[0], NEGATIVE_EMBEDS[0], EMBEDS[1], NEGATIVE_EMBEDS[1])
        cond, uncond, pooled, pooled_uncond = (
            self._on_device(each.repeat_interleave(how.images, dim=0) if name in given else each)
            for name, each in zip(names, found, strict=True)
        )
        return cond, uncond if guided else None, pooled, pooled_uncond if guided else None

    def _on_device(self, embeddings: Any) -> Any:
        """Embeddings, or None, where the transformers run."""
        if self.offloaded is None or embeddings is None:
            return embeddings
        return embeddings.to(self.offloaded.device)

    def length(self, how: Encoding) -> int:
        """Number of tokens that the third encoder reads."""
        return self.text_length if how.text_length is None else how.text_length

    def alone(
        self, prompts: Sequence[str], *others: Sequence[str], how: Encoding = AS_DEFAULT
    ) -> tuple[Tensor, Tensor]:
        """The embeddings of prompts without uncond. They keep their gradients, unless gradients are off.

        Args:
            prompts: texts for the first encoder, and for the others unless given.
            others: texts for the second and the third encoder.
            how: how they are read.
        """
        texts = {name: list(each) for name, each in zip(TEXTS, (prompts, *others), strict=False)}
        return self(False, Prompts(texts, {}, len(prompts)), how)

    def warnings(self, guided: bool, texts: Mapping[str, Sequence[str]], text_length: int | None = None) -> list[str]:
        """A warning for every text that is longer than an encoder reads, and for negative prompts without effect.

        Args:
            guided: whether uncond is used.
            texts: the prompts under diffusers' names.
            text_length: number of tokens that the third encoder reads; None for its default.
        """
        windows = (self.clip_length, self.clip_length, self.text_length if text_length is None else text_length)
        found: dict[tuple[str, int, int], list[str]] = {}
        for names in (TEXTS, NEGATIVE_TEXTS) if guided else (TEXTS,):
            for name, (tokenizer, encoder), window in zip(names, ENCODERS, windows, strict=True):
                read = name if name in texts else names[0]
                for number, text in enumerate(texts.get(read, ())) if getattr(self._pipeline, encoder) else ():
                    tokens = len(getattr(self._pipeline, tokenizer)(text, verbose=False).input_ids)
                    if tokens > window:
                        field = read if len(set(texts[read])) == 1 else f"{read}[{number}]"
                        readers = found.setdefault((field, tokens, window), [])
                        readers += [] if encoder in readers else [encoder]
        warned = [
            f"{field}: {tokens} tokens, of which {_named(readers)} the first {window}: {tokens - window} are not read"
            for (field, tokens, window), readers in found.items()
        ]
        unused = [] if guided else [name for name in NEGATIVE_TEXTS if any(texts.get(name, ()))]
        return warned + [f"{name}: has no effect without guidance, which needs a scale above 1" for name in unused]


def rows_of(embeds: Tensor, group: range, pictures: int, guided: bool) -> Tensor:
    """The embeddings of some pictures, from those of all.

    Args:
        embeds: of all pictures; with guidance `(2 * pictures, …)`, uncond first.
        group: numbers of the pictures.
        pictures: number of all pictures.
        guided: whether uncond is there.
    """
    halves = embeds.split(pictures) if guided else (embeds,)
    return torch.cat([half[group.start : group.stop] for half in halves])


def _named(encoders: Sequence[str]) -> str:
    kind = "T5" if "text_encoder_3" in encoders else "CLIP"
    return f"{' and '.join(encoders)} ({kind}) {'read' if len(encoders) > 1 else 'reads'}"
