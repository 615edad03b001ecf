"""The stages: the autoencoder's decoder, the text encoders, then large and small, each from few tokens to all 256."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTokenizer

from training import latents, models
from training.autoencoder import build, reconstruction_loss
from training.data import Batch, Sprites, load_sprites, scenes
from training.muon import Muon
from training.text import Reader, text_stage
from training.train import Stage, fall, hold, hold_then_fall, load_average

MINUTES = {
    "autoencoder": 12.0,
    "text": 2.0,
    "large-draft": 9.0,
    "large-coarse": 18.0,
    "large-fine": 17.0,
    "small-coarse": 4.0,
    "small-fine": 4.0,
}
"""Time budget of each stage, in the order they run."""
SIDES = {"draft": 32, "coarse": 64, "fine": 128}
"""Pixels a side: 16 tokens, then 64, then 256. What a word looks like is learned where a step costs least."""
BATCHES = {"draft": 32, "coarse": 16, "fine": 8}
"""Scenes a step, in each process."""
PHASE_BEFORE = {"large-coarse": "large-draft", "large-fine": "large-coarse", "small-fine": "small-coarse"}
SHIFTS = {"draft": 1.5, "coarse": 2.0, "fine": 3.0}
"""Move the noise levels up, as in SD3, further for more pixels: under much noise the prompt decides."""
DROP_PROMPT = 0.1
TEXT_RATE = 1e-4
"""AdamW's learning rate in the text encoders: at 1.5e-3 they collapse to a constant before they are of use."""
CROP_SHARE = 0.7
"""The decoder sees 64 px crops for this share of its time, then whole pictures."""


class Painter(nn.Module):
    """A transformer together with the text encoders that are trained with it (none for the frozen case)."""

    def __init__(self, transformer: SD3Transformer2DModel, encoders: nn.ModuleList) -> None:
        super().__init__()
        self.transformer = transformer
        self.encoders = encoders


def projection(folder: Path, sprites: Sprites) -> latents.Projection:
    """The latent space: fitted once, then read back."""
    path = folder / "latents.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pixels, _ = next(scenes(sprites, 128, 512, seed=0))
        latents.fit(pixels).save(path)
    return latents.load(path)


def make(name: str, minutes: float, data: Path, folder: Path, device: torch.device) -> Stage:
    """Build a stage by its name, from the results of the stages before it."""
    sprites = load_sprites(data)
    space = projection(folder, sprites).to(device)
    if name == "autoencoder":
        return _autoencoder_stage(minutes, sprites, space, device)
    if name == "text":
        return text_stage(minutes, sprites, space)
    return _transformer_stage(name, minutes, sprites, space, folder, device)


def _autoencoder_stage(minutes: float, sprites: Sprites, space: latents.Projection, device: torch.device) -> Stage:
    autoencoder = build(space.to(torch.device("cpu"))).to(device)
    optimizer = torch.optim.AdamW(autoencoder.decoder.parameters(), 3e-3, (0.9, 0.98), weight_decay=0.0)

    def loss(model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        assert isinstance(model, AutoencoderKL)
        pixels = _crop(batch[0]) if progress < CROP_SHARE else batch[0][:8]
        return reconstruction_loss(model, space, pixels)

    return Stage(
        "autoencoder", minutes, autoencoder, [optimizer], loss, hold_then_fall, partial(scenes, sprites, 128, 16)
    )


def _crop(pixels: torch.Tensor) -> torch.Tensor:
    """The same random 64 px window of every picture, on the grid of 4x4 blocks."""
    top, left = (4 * random.randrange(17) for _ in range(2))
    return pixels[:, :, top : top + 64, left : left + 64]


def _transformer_stage(
    name: str, minutes: float, sprites: Sprites, space: latents.Projection, folder: Path, device: torch.device
) -> Stage:
    phase = name.split("-")[1]
    tokenizer = models.build_tokenizer()
    painter = load_painter(name, folder, tokenizer)[0].to(device)
    if phase == "fine" or name.startswith("small"):
        painter.encoders.requires_grad_(False)
    side = SIDES[phase]
    models.set_grid(painter.transformer, side // 8)

    def loss(model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        assert isinstance(model, Painter)
        pixels, captions = batch
        return flow_loss(model, tokenizer, space.encode(pixels) * space.scale, captions, SHIFTS[phase])

    batches: partial[Iterator[Batch]] = partial(scenes, sprites, side, BATCHES[phase])
    rate = fall if phase == "fine" else hold
    return Stage(name, minutes, painter, _optimizers(painter), loss, rate, batches)


def load_painter(name: str, folder: Path, tokenizer: CLIPTokenizer, resume: bool = False) -> tuple[Painter, str | None]:
    """The weights that stage `name` starts from, or with `resume` the newest it has, and the stage they are of."""
    size = name.split("-")[0]
    encoders = models.build_text_encoders(tokenizer)
    painter = Painter(models.build_transformer(size), encoders)
    candidates = [name] * resume + [PHASE_BEFORE.get(name, name)] * (name in PHASE_BEFORE)
    for candidate in candidates:
        if (folder / f"{candidate}.pt").exists():
            load_average(folder, candidate, painter)
            return painter, candidate
    if size == "small":
        load_average(folder, "large-coarse", Painter(models.build_transformer("large"), encoders))
    elif (folder / "text.pt").exists():
        load_average(folder, "text", Reader(encoders))
    return painter, None


def flow_loss(
    painter: Painter, tokenizer: CLIPTokenizer, clean: torch.Tensor, captions: list[str], shift: float
) -> torch.Tensor:
    """Encode the captions, a tenth of them dropped to nothing, and take `velocity_loss`."""
    kept = ["" if random.random() < DROP_PROMPT else text for text in captions]
    context, pooled = models.encode_prompts(tokenizer, painter.encoders, kept)
    return velocity_loss(painter, clean, context, pooled, shift)


def velocity_loss(
    painter: Painter, clean: torch.Tensor, context: torch.Tensor, pooled: torch.Tensor, shift: float
) -> torch.Tensor:
    """Squared error of the velocity `noise - clean` at shifted logit-normal noise levels, for encoded prompts."""
    noise = torch.randn_like(clean)
    sigma = torch.randn(len(clean), device=clean.device).sigmoid()
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    mix = sigma.view(-1, 1, 1, 1)
    (velocity,) = painter.transformer(
        (1 - mix) * clean + mix * noise,
        encoder_hidden_states=context,
        pooled_projections=pooled,
        timestep=1000 * sigma,
        return_dict=False,
    )
    return functional.mse_loss(velocity.float(), noise - clean)


def _optimizers(painter: Painter) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else that is trained, the text encoders gently."""
    matrices, others, text = [], [], []
    for name, parameter in painter.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("encoders."):
            text.append(parameter)
        elif "transformer_blocks." in name and parameter.ndim == 2 and not models.is_modulation(name):
            matrices.append(parameter)
        else:
            others.append(parameter)
    groups = [{"params": others}] + [{"params": text, "lr": TEXT_RATE}] * bool(text)
    return [Muon(matrices), torch.optim.AdamW(groups, 1.5e-3, (0.9, 0.98), weight_decay=0.0)]
