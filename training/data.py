"""Emoji pictures from packages, composed on the fly into captioned scenes."""

import hashlib
import io
import json
import queue
import random
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.vocabulary import COLOURS, CONCEPTS, random_caption, trained

PICTURES = "lobehub-fluent-emoji-3d-1.1.0.tgz"
NAMES = "unicode-emoji-json-0.9.0.tgz"
PACKAGES = {
    PICTURES: (
        "@lobehub/fluent-emoji-3d@1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    NAMES: (
        "unicode-emoji-json@0.9.0",
        "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
    ),
}
"""Archive name -> (npm package, sha256 of the archive)."""

SPRITE_SIDE = 160
"""Pictures are kept at this many pixels a side, enough for the largest object."""
OBJECT_SIDE = (0.72, 0.9)
"""Side of the emoji as a share of the picture's side: smallest and largest."""
JITTER = 0.03
"""Largest shift of the emoji from the centre, as a share of the picture's side."""

Sprites = dict[str, Image.Image]
"""Concept -> square picture with premultiplied alpha (mode RGBa)."""


def fetch(folder: Path) -> None:
    """Download the two packages once and check their sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive, (package, expected) in PACKAGES.items():
        path = folder / archive
        if not path.exists():
            subprocess.run(["npm", "pack", package], cwd=folder, check=True, capture_output=True)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{path}: expected sha256 {expected}, got {found}")


def load_sprites(folder: Path) -> Sprites:
    """Read the pictures of all concepts out of the downloaded archives."""
    with tarfile.open(folder / NAMES) as archive:
        names = json.load(_member(archive, "package/data-by-emoji.json"))
    emoji_of = {entry["name"]: emoji for emoji, entry in names.items()}
    with tarfile.open(folder / PICTURES) as archive:
        files = {_code_points(Path(name).stem): name for name in archive.getnames() if name.endswith(".webp")}
        sprites = {}
        for concept in CONCEPTS:
            stem = _code_points("-".join(f"{ord(character):x}" for character in emoji_of[concept]))
            picture = Image.open(io.BytesIO(_member(archive, files[stem]).read()))
            sprites[concept] = picture.convert("RGBA").convert("RGBa").resize((SPRITE_SIDE,) * 2)
    return sprites


def _member(archive: tarfile.TarFile, name: str) -> io.BufferedIOBase:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(f"the archive has no file {name}")
    return member  # type: ignore[return-value]


def _code_points(stem: str) -> str:
    """File names and emoji agree once the variation selector is dropped."""
    return "-".join(part for part in stem.lower().split("-") if part != "fe0f")


def compose(sprite: Image.Image, colour: str, side: int, rng: random.Random) -> np.ndarray:
    """One centred emoji on a plain background: `(side, side, 3)` uint8, sRGB."""
    object_side = round(side * rng.uniform(*OBJECT_SIDE))
    emoji = np.asarray(sprite.resize((object_side, object_side), Image.Resampling.BILINEAR))
    shift = JITTER * side
    left, top = (
        min(max(round((side - object_side) / 2 + rng.uniform(-shift, shift)), 0), side - object_side) for _ in range(2)
    )
    scene = np.empty((side, side, 3), np.uint8)
    scene[:] = COLOURS[colour]
    window = scene[top : top + object_side, left : left + object_side]
    window[:] = emoji[..., :3] + (window * (1 - emoji[..., 3:] / 255)).round().astype(np.uint8)
    return scene


def to_pixels(scenes: list[np.ndarray]) -> torch.Tensor:
    """Scenes as `(batch, 3, side, side)` float32 in -1..1, what an autoencoder of diffusers takes."""
    return torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


Batch = tuple[torch.Tensor, list[str]]
"""Pixels `(batch, 3, side, side)` in -1..1 and their captions."""


def scenes(sprites: Sprites, side: int, batch: int, seed: int) -> Iterator[Batch]:
    """Endless batches of random training scenes; never a held-out combination."""
    rng = random.Random(seed)
    combinations = trained()
    while True:
        chosen = [rng.choice(combinations) for _ in range(batch)]
        pixels = to_pixels([compose(sprites[concept], colour, side, rng) for concept, colour in chosen])
        yield pixels, [random_caption(concept, colour, rng) for concept, colour in chosen]


class Feeder:
    """Composes batches in a thread, a few ahead of the training loop; close it when done."""

    def __init__(self, batches: Iterator[Batch], ahead: int = 4) -> None:
        self._queue: queue.Queue[Batch] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(batches,), daemon=True)
        self._thread.start()

    def _fill(self, batches: Iterator[Batch]) -> None:
        for batch in batches:
            while not self._stopped.is_set():
                try:
                    self._queue.put(batch, timeout=0.5)
                    break
                except queue.Full:
                    continue
            if self._stopped.is_set():
                return

    def __next__(self) -> Batch:
        return self._queue.get()

    def close(self) -> None:
        """Stop composing."""
        self._stopped.set()
        self._thread.join()
