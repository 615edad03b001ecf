"""What the exported pair is worth: autoencoder PSNR, forward times, velocity error, and a sheet of samples."""

import json
import statistics
import time
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from PIL import Image, ImageDraw
from torch import nn

from training import stages
from training.autoencoder import held_out_pictures, psnr
from training.data import load_sprites
from training.models import encode_prompts
from training.vocabulary import caption, held_out

STEPS = 28
GUIDANCE = 4.5
SIDE = 128
SHEET_PROMPTS = (
    "red apple on blue",
    "banana on purple",
    "strawberry on white",
    "pizza on green",
    "hamburger on yellow",
    "dog face on blue",
    "cat face on green",
    "panda on pink",
    "fox on pink",
    "frog on yellow",
    "automobile on white",
    "bicycle on grey",
    "rocket on black",
    "airplane on orange",
    "guitar on purple",
    "soccer ball on purple",
    "key on black",
    "light bulb on green",
    "umbrella on blue",
    "alarm clock on red",
    "penguin on blue",
    "cactus on orange",
    "house on grey",
    "red heart on white",
)
"""Chosen before any sample was seen; marked on the sheet where the combination was held out of training."""
COLUMNS = 8
LABEL = 14
SHEET = Path(__file__).parent.parent / "docs" / "images" / "pair-sheet.png"


def open_pair(folder: Path) -> dict[str, StableDiffusion3Pipeline]:
    """The large and the small pipeline in float32, on the GPU if there is one, sharing all other parts."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    large = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    ).to(device)
    transformer = SD3Transformer2DModel.from_pretrained(folder / "transformer_small", dtype=torch.float32)
    small = StableDiffusion3Pipeline(**{**large.components, "transformer": transformer.to(device)})
    for pipeline in (large, small):
        pipeline.set_progress_bar_config(disable=True)
    return {"large": large, "small": small}


def sample(pipeline: StableDiffusion3Pipeline, prompts: list[str]) -> list[Image.Image]:
    """One picture for each prompt; the seed is the prompt's index, so both models start from the same noise."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), COLUMNS):
        part = prompts[start : start + COLUMNS]
        generators = [torch.Generator().manual_seed(start + offset) for offset in range(len(part))]
        pictures += pipeline(
            part,
            height=SIDE,
            width=SIDE,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            max_sequence_length=0,
            generator=generators,
        ).images
    return pictures


def draw_sheet(pipelines: dict[str, StableDiffusion3Pipeline], path: Path) -> None:
    """Rows of eight prompts: the label, the large model's pictures, the small model's below them."""
    rows = -(-len(SHEET_PROMPTS) // COLUMNS)
    height = LABEL + 2 * SIDE
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    unseen = {caption(concept, colour, "{name} on {colour}") for concept, colour in held_out()}
    for line, pipeline in enumerate(pipelines.values()):
        for index, picture in enumerate(sample(pipeline, list(SHEET_PROMPTS))):
            left, top = index % COLUMNS * SIDE, index // COLUMNS * height
            sheet.paste(picture, (left, top + LABEL + line * SIDE))
            label = SHEET_PROMPTS[index]
            draw.text((left + 3, top + 1), label + " *" * (label in unseen), fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


@torch.no_grad()
def forward_milliseconds(transformer: SD3Transformer2DModel, repeats: int = 30) -> float:
    """Median time of one forward of a guided 128 px step: batch 2, 256 image tokens."""
    device = transformer.device
    latents = torch.randn(2, 16, SIDE // 4, SIDE // 4, device=device)
    width = transformer.config.joint_attention_dim
    context, pooled = torch.randn(2, 16, width, device=device), torch.randn(2, width, device=device)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        output = transformer(latents, context, pooled, torch.full((2,), 500.0, device=device)).sample
        output.flatten()[0].item()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


@torch.no_grad()
def decode_milliseconds(pipeline: StableDiffusion3Pipeline, repeats: int = 10) -> float:
    """Median time of decoding one picture."""
    latents = torch.randn(1, 16, SIDE // 4, SIDE // 4, device=pipeline.vae.device)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        pipeline.vae.decode(latents).sample.flatten()[0].item()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


@torch.no_grad()
def velocity_error(pipeline: StableDiffusion3Pipeline, pixels: torch.Tensor, prompts: list[str]) -> float:
    """The training loss on held-out scenes, without dropped prompts, with the same noise for every model."""
    torch.manual_seed(0)
    vae, device = pipeline.vae, pipeline.vae.device
    painter = stages.Painter(pipeline.transformer, nn.ModuleList([pipeline.text_encoder, pipeline.text_encoder_2]))
    losses = []
    for start in range(0, len(prompts), 16):
        posterior = vae.encode(pixels[start : start + 16].to(device)).latent_dist
        clean = posterior.mode() * vae.config.scaling_factor
        context, pooled = encode_prompts(pipeline.tokenizer, painter.encoders, prompts[start : start + 16])
        losses.append(stages.velocity_loss(painter, clean, context, pooled, stages.SHIFTS["fine"]))
    return torch.stack(losses).mean().item()


def evaluate(runs: Path, data: Path, folder: Path) -> None:
    """Print all figures of the exported pair and write them with the sheet."""
    pipelines = open_pair(folder)
    sprites = load_sprites(data)
    pixels = held_out_pictures(sprites)
    decibels = psnr(pipelines["large"].vae, pixels)
    prompts = [caption(concept, colour, "{name} on {colour}") for concept, colour in held_out()]
    figures: dict[str, object] = {
        "psnr_mean": round(decibels.mean().item(), 2),
        "psnr_min": round(decibels.min().item(), 2),
        "decode_ms": round(decode_milliseconds(pipelines["large"]), 1),
    }
    for size, pipeline in pipelines.items():
        figures[f"{size}_parameters"] = pipeline.transformer.num_parameters()
        figures[f"{size}_forward_ms"] = round(forward_milliseconds(pipeline.transformer), 1)
        figures[f"{size}_velocity_error"] = round(velocity_error(pipeline, pixels, prompts), 4)
    for name in stages.MINUTES:
        checkpoint = runs / f"{name}.pt"
        if checkpoint.exists():
            figures[name] = torch.load(checkpoint, map_location="cpu", weights_only=True)["counters"]
    print(json.dumps(figures, indent=2))
    draw_sheet(pipelines, SHEET)
    print(f"sheet: {SHEET}")
