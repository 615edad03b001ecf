"""Distillation of the small transformer: a few blocks of the large one learn to predict the large one's velocities.

The targets are the large model's predictions. They contain no noise, so the small model learns faster than from
pictures.
"""

import random
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from training import latents, models
from training.attention import PlainAttention
from training.autoencoder import read_projection
from training.noise import noise_levels
from training.scenes import Batch, Library, compose, to_pixels
from training.vocabulary import caption, held_out

BLOCKS = (0, 4, 7)
"""Blocks of the large model that the small one starts from."""
CHECK_SCENES = 64
"""Held-out scenes that show how far the small model has come."""


@dataclass(frozen=True)
class Parts:
    """The frozen parts: all of the pair but the small transformer."""

    large: SD3Transformer2DModel
    encoders: nn.ModuleList
    tokenizer: CLIPTokenizer
    space: latents.Projection

    def to(self, device: torch.device) -> "Parts":
        """The same parts on another device."""
        return Parts(self.large.to(device), self.encoders.to(device), self.tokenizer, self.space.to(device))

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Context and pooled output of the text encoders."""
        return models.encode_prompts(self.tokenizer, self.encoders, prompts)


def exported_parts(pair: Path) -> Parts:
    """The parts of an exported pair, frozen, in float32."""
    names = ("text_encoder", "text_encoder_2")
    encoders = [CLIPTextModelWithProjection.from_pretrained(pair / name, dtype=torch.float32) for name in names]
    large = SD3Transformer2DModel.from_pretrained(pair / "transformer", torch_dtype=torch.float32)
    return Parts(
        large.requires_grad_(False).eval(),
        nn.ModuleList(encoders).requires_grad_(False).eval(),
        CLIPTokenizer.from_pretrained(pair / "tokenizer"),
        read_projection(AutoencoderKL.from_pretrained(pair / "vae", torch_dtype=torch.float32)),
    )


def prune(large: SD3Transformer2DModel, blocks: Sequence[int] = BLOCKS) -> SD3Transformer2DModel:
    """A small transformer with these `blocks` of a larger one; the last of them must be the last of the larger one.

    A block without a second attention gets a copy of its first one. Its output is zero at the start.
    """
    small = models.build_transformer("small")
    weights = {name: value for name, value in large.state_dict().items() if "transformer_blocks." not in name}
    for place, block in enumerate(blocks):
        found = large.transformer_blocks[block].state_dict()
        if place in small.config.dual_attention_layers and large.transformer_blocks[block].attn2 is None:
            found |= _second_attention(found)
        weights |= {f"transformer_blocks.{place}.{name}": value for name, value in found.items()}
    small.load_state_dict(weights)
    return small


def _second_attention(block: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = {}
    for name, value in block.items():
        if name.startswith("attn.") and "add" not in name:
            weights[name.replace("attn.", "attn2.")] = value * (".to_out." not in name)
        elif name.startswith("norm1.linear."):
            weights[name] = torch.cat([value, value[: len(value) // 2]])  # shift, scale and gate once more
    return weights


def read_start(folder: Path) -> SD3Transformer2DModel:
    """An exported small transformer to go on from, which may lack the second attention."""
    small = SD3Transformer2DModel.from_pretrained(folder, torch_dtype=torch.float32)
    wanted = models.build_transformer("small").config
    shape = [name for name in models.SHAPES["small"] if name != "dual_attention_layers"]
    if any(small.config[name] != wanted[name] for name in shape):
        expected, got = ({name: config[name] for name in shape} for config in (wanted, small.config))
        raise ValueError(f"--start {folder}: expected a small transformer of {expected}, got one of {got}")
    return prune(small, range(wanted.num_layers))


def noised(clean: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Latents at noise levels `sigma`, one for each."""
    mix = sigma.view(-1, 1, 1, 1)
    return (1 - mix) * clean + mix * noise


def velocity(
    transformer: nn.Module, states: torch.Tensor, context: torch.Tensor, pooled: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """The velocity that a transformer predicts, in float32."""
    with PlainAttention() if states.device.type == "cpu" else nullcontext():
        answer = transformer(
            states,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            timestep=1000 * sigma,
            return_dict=False,
        )[0]
    return answer.float()


class Check:
    """Squared distance to the large model's velocity on held-out scenes, always at the same noise."""

    def __init__(self, parts: Parts, library: Library, shift: float) -> None:
        kept_back = held_out()
        scenes = kept_back[:: max(1, len(kept_back) // CHECK_SCENES)][:CHECK_SCENES]
        rng = random.Random(0)
        pixels = to_pixels([compose(library, scene, 128, rng) for scene in scenes])
        generator = torch.Generator().manual_seed(0)
        clean = parts.space.encode(pixels) * parts.space.scale
        sigma = torch.linspace(0.02, 0.98, len(clean))
        sigma = (shift * sigma / (1 + (shift - 1) * sigma))[torch.randperm(len(clean), generator=generator)]
        states = noised(clean, sigma, torch.randn(clean.shape, generator=generator))
        context, pooled = parts.encode([caption(scene) for scene in scenes])
        self.inputs = (states, context, pooled, sigma)
        self.wanted = self._answer(parts.large)

    @torch.no_grad()
    def _answer(self, transformer: nn.Module) -> torch.Tensor:
        pieces = zip(*(each.split(16) for each in self.inputs), strict=True)
        return torch.cat([velocity(transformer, *piece) for piece in pieces])

    def __call__(self, transformer: nn.Module) -> float:
        """The distance of a transformer."""
        return functional.mse_loss(self._answer(transformer), self.wanted).item()


GUIDANCE = 4.5
GUIDED_WEIGHT = 0.05
"""Weight of the squared distance of guided velocities; guidance makes it many times that of the velocities."""
STEPS = 14
"""Steps that an unfinished picture takes from noise to the end."""
POOL = 24
"""Unfinished pictures that are kept, for each one in a batch."""


class Drawings:
    """Unfinished pictures under guidance, each at a different noise level, as the models meet them in use.

    Half of them follow the large model, half the small one. So the small model learns to correct its errors.
    """

    def __init__(self, shift: float) -> None:
        self.shift = shift
        self.prompts: list[str] = []
        self.states = self.sigma = self.own = torch.empty(0)
        self._turn = 0

    def start(self, states: torch.Tensor, sigma: torch.Tensor, prompts: list[str]) -> None:
        """Add pictures at noise levels `sigma`; the next `take` returns them."""
        own = torch.randint(2, sigma.shape, device=sigma.device).float()
        self._turn = len(self.prompts)
        known = (self.states, self.sigma, self.own) if self.prompts else (states[:0], sigma[:0], own[:0])
        self.states, self.sigma, self.own = (torch.cat(pair) for pair in zip(known, (states, sigma, own), strict=True))
        self.prompts += prompts

    def take(self, count: int) -> slice:
        """The positions of the next `count` pictures, in turn."""
        self._turn %= len(self.prompts)
        taken = slice(self._turn, self._turn + count)
        self._turn += count
        return taken

    def advance(self, taken: slice, large: torch.Tensor, small: torch.Tensor, prompts: list[str]) -> None:
        """Take a step by guided velocities. Noise and the prompt at the same position replace a finished picture."""
        sigma, own = self.sigma[taken], self.own[taken].view(-1, 1, 1, 1)
        even = sigma / (self.shift - (self.shift - 1) * sigma)
        # The first step is of any size, so that the levels of different pictures fill the whole range.
        even = even - torch.where(sigma == 1, torch.rand_like(even), torch.ones_like(even)) / STEPS
        done = even < 0.01 / STEPS
        after = self.shift * even / (1 + (self.shift - 1) * even)
        states = self.states[taken] + (after - sigma).view(-1, 1, 1, 1) * (own * small + (1 - own) * large)
        self.states[taken] = torch.where(done.view(-1, 1, 1, 1), torch.randn_like(states), states)
        self.sigma[taken] = torch.where(done, torch.ones_like(after), after)
        self.own[taken] = torch.where(done, torch.randint_like(sigma, 2), self.own[taken])
        for index in done.nonzero().flatten().tolist():
            self.prompts[taken.start + index] = prompts[index]


MEMORY = 512
"""Batches that are kept with the large model's velocities, to be repeated."""


@dataclass(frozen=True)
class Task:
    """What the small model answers, and the large model's answer. The last `2 * drawn` states are under guidance."""

    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    wanted: torch.Tensor
    drawn: int

    def guided(self, velocities: torch.Tensor) -> torch.Tensor:
        """Guided velocities of the unfinished pictures."""
        with_prompt, without = velocities[-2 * self.drawn :].chunk(2)
        return without + GUIDANCE * (with_prompt - without)

    def loss(self, found: torch.Tensor) -> torch.Tensor:
        """The squared distance to the large model's velocity."""
        loss = functional.mse_loss(found, self.wanted)
        if self.drawn:
            loss = loss + GUIDED_WEIGHT * functional.mse_loss(self.guided(found), self.guided(self.wanted))
        return loss


class Lesson:
    """The loss: squared distance to the large model's velocity at noised training scenes.

    Args:
        parts: the models that give the targets.
        shift: of the noise levels.
        drop_prompt: share of the scenes that are learned without their prompt.
        guided: whether half of a batch is unfinished pictures under guidance, with and without their prompts.
        compiled: whether to compile the transformers. It takes minutes and shortens a step by a seventh.
    """

    def __init__(
        self, parts: Parts, shift: float, drop_prompt: float, guided: bool = False, compiled: bool = False
    ) -> None:
        self.parts, self.shift, self.drop_prompt, self.guided = parts, shift, drop_prompt, guided
        self.velocity = torch.compile(velocity, dynamic=False) if compiled else velocity
        self.drawings = Drawings(shift)
        self.memory: deque[Task] = deque(maxlen=MEMORY)

    @torch.no_grad()
    def _scenes(self, clean: torch.Tensor, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Training scenes under noise, their noise levels and prompts."""
        sigma = noise_levels(len(clean), self.shift, clean.device)
        prompts = ["" if random.random() < self.drop_prompt else text for text in captions]
        return noised(clean, sigma, torch.randn_like(clean)), sigma, prompts

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        """The loss of one batch."""
        pixels, captions = batch
        drawn = len(captions) // 4 if self.guided else 0
        scenes = len(captions) - 2 * drawn
        clean = self.parts.space.encode(pixels) * self.parts.space.scale
        states, sigma, prompts = self._scenes(clean[:scenes], captions[:scenes])
        if drawn:
            if len(self.drawings.prompts) < POOL * drawn:
                self.drawings.start(*self._scenes(clean[scenes : scenes + drawn], captions[scenes : scenes + drawn]))
            taken = self.drawings.take(drawn)
            states = torch.cat([states, *2 * [self.drawings.states[taken]]])
            sigma = torch.cat([sigma, *2 * [self.drawings.sigma[taken]]])
            prompts = [*prompts, *self.drawings.prompts[taken], *drawn * [""]]
        with torch.no_grad():
            context, pooled = self.parts.encode(prompts)
            wanted = self.velocity(self.parts.large, states, context, pooled, sigma)
        task = Task((states, context, pooled, sigma), wanted, drawn)
        self.memory.append(task)
        found = self.velocity(model, *task.inputs)
        if drawn:
            self.drawings.advance(taken, task.guided(wanted), task.guided(found.detach()), captions[scenes:])
        return task.loss(found)

    def again(self, model: nn.Module) -> torch.Tensor:
        """The loss of a random one of the last `MEMORY` batches."""
        task = random.choice(self.memory)
        return task.loss(self.velocity(model, *task.inputs))
