"""The stages: the decoder, the text encoders, the large transformer at 64 tokens and at all 256, then the small one."""

import random
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import nn
from torch.nn import functional

from training import latents, models
from training.autoencoder import build, reconstruction_loss
from training.distil import Check, Lesson, Parts, exported_parts, noised, prune, read_start, velocity
from training.muon import Muon
from training.noise import noise_levels
from training.scenes import Batch, Library, batches
from training.text import Reader, text_stage
from training.train import Stage, fall, fall_from_half, hold, hold_then_fall, load_average

MINUTES = {
    "autoencoder": 19.0,
    "text": 16.0,
    "large-coarse": 124.0,
    "large-fine": 485.0,
    "small-distil": 240.0,
    "small-guided": 60.0,
}
"""Time budget of each stage on two CPU cores, in the order they run."""
GPU_SHARE = 1 / 15
"""Of that time on a GPU: an hour for all, an estimate."""
SIDES = {"coarse": 64, "fine": 128}
"""Pixels a side: 64 tokens, then 256. What a word looks like is learned where a step costs less."""
BATCHES = {"autoencoder": 8, "text": 48, "coarse": 32, "fine": 12, "distil": 16, "guided": 16}
"""Scenes a step, in each process on a CPU."""
GPU_BATCH = 8
"""On a GPU this many times as many, or it would wait for its own launches."""
PHASE_BEFORE = {"large-fine": "large-coarse"}
STAGES_OF = {"large": ("large-fine", "large-coarse"), "small": ("small-guided", "small-distil")}
"""The stages of a transformer, the last one first."""
DISTIL_MEMORY = 0.999
"""An average over this many steps at the full rate is worth about as much as a rate that falls."""
SHIFTS = {"coarse": 2.0, "fine": 3.0}
"""Move the noise levels up, as in SD3, further for more pixels: under much noise the prompt decides."""
DROP_PROMPT = 0.1
CROP_SHARE = 0.7
"""The decoder sees 64 px crops for this share of its time, then whole pictures."""


def projection(folder: Path, library: Library) -> latents.Projection:
    """The latent space: fitted once, then read back."""
    path = folder / "latents.safetensors"
    if not path.exists():
        pixels, _ = next(batches(library, 128, 512, seed=0))
        latents.fit(pixels).save(path)
    return latents.load(path)


def prepare(library: Library, folder: Path) -> None:
    """What all stages share and must not make twice: the latent space and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    projection(folder, library)
    models.load_tokenizer(folder, library)


def make(
    name: str,
    minutes: float,
    library: Library,
    folder: Path,
    device: torch.device,
    pair: Path | None = None,
    start: Path | None = None,
    compiled: bool = False,
) -> Stage:
    """Build a stage by its name, from the results of the stages before it.

    Args:
        pair: an exported pair, for the stages of the small model, where `folder` holds no large transformer.
        start: a small transformer that such a stage goes on from, instead of the large one's blocks or the stage
            before it.
        compiled: whether such a stage compiles its transformers.
    """
    size = BATCHES[name.split("-")[-1]] * (GPU_BATCH if device.type == "cuda" else 1)
    if name == "text":
        return text_stage(minutes, library, folder, size)
    if name in STAGES_OF["small"]:
        parts = frozen_parts(folder, library, pair).to(device)
        return _small_stage(name, minutes, library, parts, size, _small_start(name, parts, folder, start), compiled)
    space = projection(folder, library).to(device)
    if name == "autoencoder":
        return _autoencoder_stage(minutes, library, space, size, device)
    return _transformer_stage(name, minutes, library, space, size, folder, device)


def _autoencoder_stage(
    minutes: float, library: Library, space: latents.Projection, size: int, device: torch.device
) -> Stage:
    autoencoder = build(space.to(torch.device("cpu"))).to(device)
    optimizer = torch.optim.AdamW(autoencoder.decoder.parameters(), 3e-3, (0.9, 0.98), weight_decay=0.0)

    def loss(model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        assert isinstance(model, AutoencoderKL)
        pixels = _crop(batch[0]) if progress < CROP_SHARE else batch[0]
        return reconstruction_loss(model, space, pixels)

    source = partial(batches, library, 128, size)
    return Stage("autoencoder", minutes, autoencoder, [optimizer], loss, hold_then_fall, source)


def _crop(pixels: torch.Tensor) -> torch.Tensor:
    """The same random 64 px window of every picture, on the grid of 4x4 blocks."""
    top, left = (4 * random.randrange(17) for _ in range(2))
    return pixels[:, :, top : top + 64, left : left + 64]


def _transformer_stage(
    name: str,
    minutes: float,
    library: Library,
    space: latents.Projection,
    size: int,
    folder: Path,
    device: torch.device,
) -> Stage:
    phase = name.split("-")[1]
    tokenizer = models.load_tokenizer(folder, library)
    encoders = load_encoders(folder, models.build_text_encoders(tokenizer)).to(device)
    transformer = load_transformer(name, folder).to(device)
    side = SIDES[phase]
    models.set_grid(transformer, side // 8)

    def loss(model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        assert isinstance(model, SD3Transformer2DModel)
        pixels, captions = batch
        kept = ["" if random.random() < DROP_PROMPT else text for text in captions]
        with torch.no_grad():
            context, pooled = models.encode_prompts(tokenizer, encoders, kept)
        return velocity_loss(model, space.encode(pixels) * space.scale, context, pooled, SHIFTS[phase])

    source = partial(batches, library, side, size)
    rate = fall if phase == "fine" else hold
    return Stage(name, minutes, transformer, _optimizers(transformer), loss, rate, source)


def frozen_parts(folder: Path, library: Library, pair: Path | None) -> Parts:
    """What the small transformer learns from: the trained parts of `folder`, or else those of an exported pair."""
    if pair is not None and not has_large(folder):
        return exported_parts(pair)
    tokenizer = models.load_tokenizer(folder, library)
    large = newest_transformer("large", folder)[0]
    models.set_grid(large, models.GRID)
    return Parts(
        large.requires_grad_(False).eval(),
        load_encoders(folder, models.build_text_encoders(tokenizer)),
        tokenizer,
        projection(folder, library),
    )


def _small_stage(
    name: str, minutes: float, library: Library, parts: Parts, size: int, small: SD3Transformer2DModel, compiled: bool
) -> Stage:
    guided = name == "small-guided"
    lesson = Lesson(parts, SHIFTS["fine"], DROP_PROMPT, guided, compiled)
    source = partial(batches, library, SIDES["fine"], size)
    check = Check(parts, library, SHIFTS["fine"])
    rate = fall_from_half if guided else hold_then_fall
    return Stage(name, minutes, small, _optimizers(small), lesson, rate, source, check, lesson.again, DISTIL_MEMORY)


def _small_start(name: str, parts: Parts, folder: Path, start: Path | None) -> SD3Transformer2DModel:
    """What a stage of the small transformer starts from."""
    if start:
        return read_start(start)
    small = prune(parts.large)
    if name == "small-guided":
        load_average(folder, "small-distil", small)
    return small


def load_encoders(folder: Path, encoders: nn.ModuleList) -> nn.ModuleList:
    """The text encoders as their stage left them, frozen."""
    load_average(folder, "text", Reader(encoders))
    return encoders.requires_grad_(False).eval()


def load_transformer(name: str, folder: Path) -> SD3Transformer2DModel:
    """The weights that stage `name` starts from: untrained ones, or those of the stage before it, which must exist."""
    transformer = models.build_transformer(name.split("-")[0])
    if name in PHASE_BEFORE:
        load_average(folder, PHASE_BEFORE[name], transformer)
    return transformer


def has_large(folder: Path) -> bool:
    """Whether a large transformer was trained in `folder`; without, that of an exported pair is meant."""
    return any((folder / f"{name}.pt").exists() for name in STAGES_OF["large"])


def newest_transformer(size: str, folder: Path) -> tuple[SD3Transformer2DModel, str]:
    """The most advanced weights of the large or the small model, and the stage they are of."""
    transformer = models.build_transformer(size)
    stage = next(name for name in STAGES_OF[size] if (folder / f"{name}.pt").exists())
    load_average(folder, stage, transformer)
    return transformer, stage


def velocity_loss(
    transformer: SD3Transformer2DModel, clean: torch.Tensor, context: torch.Tensor, pooled: torch.Tensor, shift: float
) -> torch.Tensor:
    """Squared error of the velocity `noise - clean` at the noise levels of `noise_levels`, for encoded prompts."""
    noise = torch.randn_like(clean)
    sigma = noise_levels(len(clean), shift, clean.device)
    found = velocity(transformer, noised(clean, sigma, noise), context, pooled, sigma)
    return functional.mse_loss(found, noise - clean)


def _optimizers(transformer: SD3Transformer2DModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for all else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in transformer.named_parameters():
        inside = "transformer_blocks." in name and parameter.ndim == 2 and not models.is_modulation(name)
        (matrices if inside else others).append(parameter)
    return [Muon(matrices), torch.optim.AdamW(others, 1.5e-3, (0.9, 0.98), weight_decay=0.0, fused=True)]
