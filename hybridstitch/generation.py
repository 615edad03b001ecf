"""One validated request for pictures: the value that every entry builds and that the pipeline runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hybridstitch.model.prompts import Encoding, Prompts
from hybridstitch.model.skip_layers import SkipLayers
from hybridstitch.recipe.recipe import Recipe
from hybridstitch.region import Region


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What to generate, with every default filled in and every value validated.

    `HybridStitchPipeline.validate` and the requests of `hybridstitch.wire` build it, each by its own limits.
    `HybridStitchPipeline.generate` runs it and does not validate it again.

    Attributes:
        prompts: The texts or embeddings of every prompt, with their negative half.
        seeds: One for each picture; a single number for one generator that serves all of them; None if the noise
            comes from torch's global state.
        width, height: Pixels.
        num_inference_steps: Steps that were requested, at least 1. A recipe with a `step_share` takes fewer.
        guidance_scale: Scale of classifier-free guidance, at least 0; at 1 and below there is no negative half.
        recipe: What to stitch; None on an endpoint that has one model.
        speed: The speed that `recipe` was chosen for, if the request named one.
        region: Pixels that the large model renders at every step.
        sigmas: Noise levels before the shift, one for each step; None for the schedule of the recipe.
        images_per_prompt: Pictures of each prompt, at least 1.
        clip_skip: Layers of the CLIP encoders to leave out at the end.
        text_length: Tokens of the third text encoder; None for the default of the pair.
        lora: Scales of the LoRA adapters that act, by name; None for those that act where a call names none.
        skip_layers: Skip-layer guidance of the models that have it, under `large` and `small`.
        lora_scale: Weight of the LoRA adapters of all parts; None leaves it as it is.
    """

    prompts: Prompts
    seeds: int | tuple[int, ...] | None
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    recipe: Recipe | None
    speed: float | None = None
    region: Region | None = None
    sigmas: tuple[float, ...] | None = None
    images_per_prompt: int = 1
    clip_skip: int | None = None
    text_length: int | None = None
    lora: Mapping[str, float] | None = None
    skip_layers: Mapping[str, SkipLayers] = field(default_factory=dict)
    lora_scale: float | None = None

    @property
    def pictures(self) -> int:
        """The number of pictures."""
        return (self.prompts.count or 0) * self.images_per_prompt

    @property
    def guided(self) -> bool:
        """Whether classifier-free guidance runs."""
        return self.guidance_scale > 1

    @property
    def encoding(self) -> Encoding:
        """How the text encoders read the prompts."""
        return Encoding(self.images_per_prompt, self.clip_skip, self.text_length, self.lora_scale)

    @property
    def batch_key(self) -> str:
        """Equal for generations whose pictures can share a forward."""
        return json.dumps([self.settings(), self.sigmas, self.clip_skip, self.text_length, self.lora_scale])

    def settings(self) -> dict[str, Any]:
        """What all pictures have in common, as JSON under the names of the request and the report."""
        skipped = {name: each.to_dict() for name, each in self.skip_layers.items()}
        return {
            "recipe": self.recipe and self.recipe.to_dict(),
            "width": self.width,
            "height": self.height,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "speed": self.speed,
            "region": self.region and list(self.region),
            "lora": self.lora if self.lora is None else dict(self.lora),
        } | ({"skip_layers": skipped} if skipped else {})

    def generators(self) -> torch.Generator | list[torch.Generator] | None:
        """The sources of noise, on the CPU: there a seed gives the same noise on every device."""
        if self.seeds is None or isinstance(self.seeds, int):
            return None if self.seeds is None else torch.Generator().manual_seed(self.seeds)
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def for_images(self, start: int, stop: int) -> Generation:
        """The generation of the pictures from `start` up to `stop` alone. Needs one picture for each prompt."""
        texts = {name: each[start:stop] for name, each in self.prompts.texts.items()}
        embeds = {name: each[start:stop] for name, each in self.prompts.embeds.items()}
        seeds = self.seeds[start:stop] if isinstance(self.seeds, tuple) else self.seeds
        return replace(self, prompts=Prompts(texts, embeds, stop - start), seeds=seeds)


def joined(generations: Sequence[Generation]) -> Generation:
    """One generation of the pictures of several, in their order.

    Args:
        generations: Those of one `batch_key`, with texts as prompts and a seed for each picture.
    """
    prompts = [each.prompts for each in generations]
    texts = {name: [text for each in prompts for text in each.texts[name]] for name in prompts[0].texts}
    seeds = tuple(seed for each in generations if isinstance(each.seeds, tuple) for seed in each.seeds)
    return replace(generations[0], prompts=Prompts(texts, {}, len(seeds)), seeds=seeds)
