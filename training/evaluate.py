"""What the exported pair is worth: held-out scenes drawn by both models, measured beside real pictures."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from hybridstitch import HybridStitchPipeline
from hybridstitch.measure.intervals import Interval
from training import retrieval, stages
from training.autoencoder import psnr
from training.scenes import Library, compose, held_out_pictures
from training.sheet import SHEET_PROMPTS, draw_sheet
from training.speed import decode_milliseconds, forward_gflops, forward_milliseconds
from training.velocities import velocity_errors
from training.vocabulary import COLOURS, Scene, caption, held_out

STEPS = 28
FEWER_STEPS = (14, 10)
GUIDANCE = 4.5
SIDE = 128
BATCH = 8
FOLDS = 20
"""Of the jackknife."""
RECIPES = ("two-stage", "hybridstitch", "t-stitch")
"""Both models at work."""
STEPS_PROMPTS = 32
"""Held-out prompts that show how hard the large model is to integrate."""


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


def sample(pipeline: StableDiffusion3Pipeline, prompts: list[str], steps: int = STEPS) -> np.ndarray:
    """`(count, 128, 128, 3)` uint8; a prompt's index is its seed, so all models and steps start from the same noise."""
    pictures = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        drawn = pipeline(
            part,
            height=SIDE,
            width=SIDE,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            max_sequence_length=0,
            generator=[torch.Generator().manual_seed(start + offset) for offset in range(len(part))],
            output_type="np",
        ).images
        pictures.append((drawn * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def background_hits(pictures: np.ndarray, scenes: list[Scene]) -> np.ndarray:
    """For each picture whether its top and bottom edge are both nearest to the colour asked for."""
    table = np.array(list(COLOURS.values()))
    hits = []
    for picture, scene in zip(pictures, scenes, strict=True):
        edges = [np.median(rows.reshape(-1, 3), axis=0) for rows in (picture[:4], picture[-4:])]
        nearest = tuple(list(COLOURS)[np.abs(table - edge).sum(1).argmin()] for edge in edges)
        hits.append(nearest == scene.background)
    return np.array(hits)


def sample_recipe(pipe: HybridStitchPipeline, prompts: list[str], recipe: str) -> np.ndarray:
    """What `sample` gives, drawn by a recipe: the same seeds."""
    pictures = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        seeds = [torch.Generator().manual_seed(start + offset) for offset in range(len(part))]
        drawn = pipe(
            part, recipe=recipe, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=seeds, output_type="np"
        ).images
        pictures.append((drawn * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


class Judge:
    """Figures of a set of pictures of some scenes, whoever drew them."""

    def __init__(self, library: Library, scenes: list[Scene]) -> None:
        self.scenes = scenes
        self.network = retrieval.Features()
        self.discriminant = retrieval.fit(library, self.network)
        rng = random.Random(2)
        self.reference = self.network(np.stack([compose(library, scene, SIDE, rng) for scene in scenes]))

    def __call__(self, pictures: np.ndarray) -> dict[str, float]:
        """Retrieval, distance to other real pictures of the same scenes, backgrounds."""
        return self._figures(self._seen(pictures), np.arange(len(pictures)))

    def intervals(self, pictures: np.ndarray, prompts: np.ndarray) -> dict[str, Interval]:
        """The same with 95 % intervals, by leaving out a twentieth of the prompts at a time (jackknife).

        prompts: which prompt each picture is of; all pictures of a prompt are left out together.
        """
        seen = self._seen(pictures)
        found = self._figures(seen, np.arange(len(pictures)))
        places = np.unique(prompts, return_inverse=True)[1]
        folds = min(FOLDS, places.max() + 1)
        parts = [self._figures(seen, np.flatnonzero(places % folds != fold)) for fold in range(folds)]
        intervals = {}
        for name, value in found.items():
            left = np.array([part[name] for part in parts])
            margin = 1.96 * float(np.sqrt((folds - 1) * left.var()))
            intervals[name] = Interval(value, value - margin, value + margin)
        return intervals

    def _seen(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """What each picture shows: ranks of its concepts, features, and whether its background is right."""
        features = self.network(pictures)
        ranks = []
        for index, scene in enumerate(self.scenes):
            pair = len(scene.concepts) == 2
            rows = self.network(retrieval.halves(pictures[index])) if pair else features[index : index + 1]
            ranks.append(self.discriminant.rank(rows, list(scene.concepts)).max())
        hits = background_hits(pictures, self.scenes)
        return {"features": features.numpy(), "ranks": np.array(ranks), "background": hits}

    def _figures(self, seen: dict[str, np.ndarray], kept: np.ndarray) -> dict[str, float]:
        alone = np.array([len(self.scenes[index].concepts) == 1 for index in kept])
        ranks = seen["ranks"][kept]
        features = torch.from_numpy(seen["features"][kept])
        return {
            "top1": float((ranks[alone] < 1).mean()),
            "top5": float((ranks[alone] < 5).mean()),
            "both_of_two_top5": float((ranks[~alone] < 5).mean()) if not alone.all() else float("nan"),
            "kernel_distance": retrieval.kernel_distance(features, self.reference[kept]),
            "background": float(seen["background"][kept].mean()),
        }


def decibels(first: np.ndarray, second: np.ndarray) -> float:
    """Mean PSNR of pairs of uint8 pictures."""
    error = ((first.astype(np.float64) - second) ** 2).mean((1, 2, 3)) / 255**2
    return float((-10 * np.log10(np.maximum(error, 1e-10))).mean())


def evaluate(runs: Path, library: Library, folder: Path, sheet: Path, count: int | None = None) -> None:
    """Print all figures of the exported pair in `folder` and draw its `sheet`.

    count: so many held-out scenes, spread over all of them, instead of all, and no sheet: a quick look.
    """
    pipelines = open_pair(folder)
    kept_back = held_out()
    chosen = [place * len(kept_back) // (count or len(kept_back)) for place in range(count or len(kept_back))]
    scenes = [kept_back[index] for index in chosen]
    prompts = [caption(scene) for scene in scenes]
    pixels = held_out_pictures(library)[chosen]
    coding = psnr(pipelines["large"].vae, pixels)
    figures: dict[str, object] = {
        "autoencoder_psnr": [coding.mean().item(), coding.min().item()],
        "decode_ms": decode_milliseconds(pipelines["large"]),
    }
    for size, pipeline in pipelines.items():
        figures[size] = {
            "parameters": pipeline.transformer.num_parameters(),
            "forward_ms": forward_milliseconds(pipeline.transformer),
            "forward_gflops": forward_gflops(pipeline.transformer),
        }
    figures["velocity_error"] = velocity_errors(pipelines, pixels, prompts)
    if count is None:
        draw_sheet([sample(pipeline, list(SHEET_PROMPTS)) for pipeline in pipelines.values()], sheet)
    drawn = {size: sample(pipeline, prompts) for size, pipeline in pipelines.items()}
    stitched = HybridStitchPipeline.from_pretrained(folder).to(pipelines["large"].device)
    stitched.set_progress_bar_config(disable=True)
    drawn |= {recipe: sample_recipe(stitched, prompts, recipe) for recipe in RECIPES}
    figures["decibels_to_large"] = {
        name: decibels(pictures, drawn["large"]) for name, pictures in drawn.items() if name != "large"
    }
    subset = range(0, len(prompts), -(-len(prompts) // STEPS_PROMPTS))
    few = [prompts[index] for index in subset]
    reference = sample(pipelines["large"], few)
    figures["steps_db"] = {steps: decibels(sample(pipelines["large"], few, steps), reference) for steps in FEWER_STEPS}
    judge = Judge(library, scenes)
    real = ((pixels.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    figures["quality"] = {who: judge(pictures) for who, pictures in {"real": real, **drawn}.items()}
    for name in stages.MINUTES:
        if (runs / f"{name}.pt").exists():
            figures[name] = torch.load(runs / f"{name}.pt", map_location="cpu", weights_only=True)["counters"]
    print(json.dumps(figures, indent=2))
