"""Folders of a large and a small toy model in every layout in which SD3 models are found."""

from __future__ import annotations

import hashlib
import json
import shutil
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from hybridstitch.base.paths import HUB_ID
from tests.support.tiny import make_pipeline

LARGE_ID, SMALL_ID = "makers/large", "makers/small"


@dataclass(frozen=True)
class Layout:
    """A layout, and what becomes of it.

    Attributes:
        prepare: changes the folders `large` and `small` inside the folder that it gets.
        options: arguments of `from_pretrained` and `pack`.
        refused: where it is refused, a path or field with words of the reason, in loading and packing alike.
        large, small: the sources: folders, or hub ids.
    """

    prepare: Callable[[Path], None]
    options: Mapping[str, Any] = field(default_factory=dict)
    refused: tuple[str, str] | None = None
    large: str = "large"
    small: str = "small"

    def source(self, folder: Path) -> dict[str, str]:
        """The arguments `large` and `small`."""
        sides = {"large": self.large, "small": self.small}
        return {name: side if HUB_ID.fullmatch(side) else str(folder / side) for name, side in sides.items()}


def make_two(folder: Path) -> Path:
    """A folder with `large`, which has a third text encoder, and `small`, which has none; weights are float32."""
    words = ["<pad>", "</s>", "<unk>", "\u2581", *string.ascii_lowercase]
    tokenizer = T5TokenizerFast(vocab=[(word, -float(at)) for at, word in enumerate(words)], extra_ids=0)
    third = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    parts = make_pipeline("sd35-large").components | {"text_encoder_3": third.eval(), "tokenizer_3": tokenizer}
    StableDiffusion3Pipeline(**parts).save_pretrained(folder / "large")
    make_pipeline("sd35-medium", layers=2, heads=1).save_pretrained(folder / "small")
    return folder


def nothing(folder: Path) -> None:
    """Leave the folders as they are."""


def without_third(folder: Path) -> None:
    """Null in the index."""
    change(folder / "large" / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / "large" / part)


def third_not_downloaded(folder: Path) -> None:
    """The index still names it."""
    shutil.rmtree(folder / "large" / "text_encoder_3")


def third_without_weights(folder: Path) -> None:
    """Only its configuration was downloaded."""
    (folder / "large" / "text_encoder_3" / "model.safetensors").unlink()


def rewritten(variant: str | None, sharded: bool, keep: bool = False) -> Callable[[Path], None]:
    """The weights of every part in files of a variant, whole or sharded. keep: beside the plain ones."""

    def prepare(folder: Path) -> None:
        for file in [*folder.rglob("*.safetensors")]:
            weights, stem = load_file(file), file.name.removesuffix(".safetensors")
            kept = {name: value.half() if variant else value for name, value in weights.items()}
            label, names = f".{variant}" if variant else "", sorted(weights)
            if not keep:
                file.unlink()
            if not sharded:
                save_file(kept, file.with_name(f"{stem}{label}.safetensors"), {"format": "pt"})
                continue
            places = {}
            for number, part in enumerate((names[::2], names[1::2]), 1):
                shard = f"{stem}{label}-0000{number}-of-00002.safetensors"
                save_file({name: kept[name] for name in part}, file.with_name(shard), {"format": "pt"})
                places |= dict.fromkeys(part, shard)
            index = f"{stem}.safetensors.index{label}.json"
            file.with_name(index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))

    return prepare


def resaved(folder: Path) -> None:
    """The small model's scheduler as newer versions write it, the large one's as the makers published it."""
    path = "scheduler/scheduler_config.json"
    change(folder / "small" / path, use_dynamic_shifting=False)
    made = json.loads((folder / "large" / path).read_text())
    kept = {name: made[name] for name in ("_class_name", "num_train_timesteps", "shift")}
    (folder / "large" / path).write_text(json.dumps(kept))


def without_a_default(folder: Path) -> None:
    """One configuration without a value that its class has by default."""
    path = folder / "small" / "transformer" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "patch_size"}))


def strays(folder: Path) -> None:
    """Pickles and other files that no loader reads."""
    for name in ("large/x.pt", "large/transformer/x.bin", "large/safety/x.ckpt", "small/vae/x.pth", "large/LICENSE"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")


def transformer_only(folder: Path) -> None:
    """Of the small model."""
    shutil.move(folder / "small" / "transformer", folder / "transformer")
    shutil.rmtree(folder / "small")
    (folder / "small").mkdir()
    shutil.move(folder / "transformer", folder / "small" / "transformer")


def another_autoencoder(folder: Path) -> None:
    """The small model's latents mean something else."""
    change(folder / "small" / "vae" / "config.json", scaling_factor=0.7)


def pickled(folder: Path) -> None:
    """Weights that the loader would read, as a pickle."""
    (folder / "large" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, folder / "large" / "vae" / "diffusion_pytorch_model.bin")


def single_file(folder: Path) -> None:
    """A checkpoint in one file."""
    save_file({"x": torch.zeros(1)}, folder / "sd3.safetensors")


def snapshot(folder: Path) -> None:
    """Both as snapshots in a cache of huggingface_hub: links to blobs that are named by their content."""
    for side in ("large", "small"):
        cache = folder / "hub" / f"models--makers--{side}"
        for file in [path for path in (folder / side).rglob("*") if path.is_file()]:
            blob = cache / "blobs" / hashlib.sha256(file.read_bytes() + file.name.encode()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            link = cache / "snapshots" / ("0" * 40) / file.relative_to(folder / side)
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, blob)
            link.symlink_to(blob)
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text("0" * 40)
        shutil.rmtree(folder / side)
        (folder / side).symlink_to(cache / "snapshots" / ("0" * 40))


def change(path: Path, **values: Any) -> None:
    """Replace values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


FP16 = {"variant": "fp16"}
NO_T5 = {"without": ["text_encoder_3"]}
LAYOUTS = {
    "whole": Layout(nothing),
    "sharded": Layout(rewritten(None, sharded=True)),
    "no third text encoder": Layout(without_third),
    "third text encoder left out": Layout(nothing, NO_T5),
    "third text encoder not downloaded": Layout(
        third_not_downloaded, refused=("large/text_encoder_3", "--without text_encoder_3")
    ),
    "third text encoder without weights": Layout(
        third_without_weights, refused=("large/text_encoder_3/model.safetensors", "--without text_encoder_3")
    ),
    "third text encoder not downloaded and left out": Layout(third_not_downloaded, NO_T5),
    "snapshot": Layout(snapshot),
    "hub ids": Layout(snapshot, large=LARGE_ID, small=SMALL_ID),
    "hub ids without third text encoder": Layout(snapshot, NO_T5, large=LARGE_ID, small=SMALL_ID),
    "a hub id that is not there": Layout(
        snapshot, refused=("large", "a connection to the hub"), large="makers/nobody", small=SMALL_ID
    ),
    "plain and fp16, plain": Layout(rewritten("fp16", sharded=False, keep=True)),
    "plain and fp16, fp16": Layout(rewritten("fp16", sharded=False, keep=True), FP16),
    "fp16 alone": Layout(rewritten("fp16", sharded=False), FP16),
    "fp16 alone, sharded": Layout(rewritten("fp16", sharded=True), FP16),
    "fp16 beside, sharded": Layout(rewritten("fp16", sharded=True, keep=True), FP16),
    "fp16 alone, not selected": Layout(
        rewritten("fp16", sharded=False), refused=("transformer/diffusion_pytorch_model.safetensors", "--variant fp16")
    ),
    "fp16 alone, sharded, not selected": Layout(
        rewritten("fp16", sharded=True), refused=("transformer/diffusion_pytorch_model.safetensors", "--variant fp16")
    ),
    "no such variant": Layout(nothing, {"variant": "bf16"}, refused=("variant", "*.bf16.safetensors")),
    "re-saved scheduler": Layout(resaved),
    "a config without a default": Layout(without_a_default),
    "stray pickles": Layout(strays),
    "pickled weights": Layout(pickled, refused=("vae/diffusion_pytorch_model.bin", "safetensors instead")),
    "small transformer only": Layout(transformer_only),
    "another autoencoder": Layout(another_autoencoder, refused=("vae.scaling_factor", "as the large model has it")),
    "a single file": Layout(single_file, refused=("large", "not a file"), large="sd3.safetensors"),
    "exchanged": Layout(without_third, large="small", small="large"),
}
