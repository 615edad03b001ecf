"""SD3.5-Large and -Medium in full size with random weights, from files to a picture: `python -m training.full_size`.

It writes both models as diffusers saves them, packs them by link, serves them by a real TorchServe, sends one request,
and prints what each step took. It deletes what it wrote, unless `--keep` is given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import torch
from diffusers import SD3Transformer2DModel

from hybridstitch.base.markdown import markdown_table
from hybridstitch.base.progress import say, waiting
from hybridstitch.bench.scale_models import SCALES, SHAPES, cut
from hybridstitch.bench.scale_pipeline import random_pipeline
from hybridstitch.cli.main import main as hybridstitch
from hybridstitch.measure.host import machine
from hybridstitch.serving.client.client import Client
from hybridstitch.serving.server.server import Server

SHARD_BYTES = 10_000_000_000
"""Most bytes in a file of weights, as diffusers splits them: two files for SD3.5-Large."""
POOL = 4_194_301
"""Random numbers that fill the weights, again and again. A prime number, so that no two rows are alike."""
TIMEOUT = 600
"""Seconds that a request may take, as the archive's own `responseTimeout`."""
SPARE_BYTES = 2 * 2**30
NAME = "sd35"
GIB = 2**30
_BYTES_OF_BFLOAT16 = 2


def write_models(folder: Path, layers: int | None = None) -> tuple[Path, Path]:
    """Write a large and a small model with random weights in bfloat16. No more than a few megabytes are in memory.

    Args:
        folder: where `large` and `small` are created.
        layers: of each model, all by default.

    Returns:
        The folder of the large model, with all parts but T5, and of the small one, with its transformer alone.
    """
    paths = folder / "large", folder / "small"
    random_pipeline(None, torch.bfloat16, "cpu").save_pretrained(paths[0], safe_serialization=True)
    index = json.loads((paths[0] / "model_index.json").read_text())
    index["transformer"] = ["diffusers", SD3Transformer2DModel.__name__]
    (paths[0] / "model_index.json").write_text(json.dumps(index, indent=2))
    for name, path in zip(SCALES["sd35"], paths, strict=True):
        shape = SHAPES[name] if layers is None else cut(SHAPES[name], layers)
        with torch.device("meta"):
            transformer = SD3Transformer2DModel(**shape)
        transformer.save_config(path / "transformer")
        tensors = {key: tuple(value.shape) for key, value in transformer.state_dict().items()}
        write_weights(path / "transformer", tensors)
    return paths


def write_weights(folder: Path, tensors: Mapping[str, tuple[int, ...]]) -> None:
    """Write random weights in bfloat16 as safetensors, in shards with an index if they are large."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in tensors.items():
        size = _size(shape)
        if filled and filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    pool = (0.02 * torch.randn(POOL, generator=torch.Generator().manual_seed(0))).bfloat16()
    stem = "diffusion_pytorch_model"
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        one = len(shards) == 1
        path = folder / (f"{stem}.safetensors" if one else f"{stem}-{number:05}-of-{len(shards):05}.safetensors")
        _write_shard(path, shard, pool)
        places |= dict.fromkeys(shard, path.name)
    if len(shards) > 1:
        total = sum(map(_size, tensors.values()))
        described = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(described, indent=2))


def _size(shape: tuple[int, ...]) -> int:
    return _BYTES_OF_BFLOAT16 * torch.Size(shape).numel()


def _write_shard(path: Path, tensors: Mapping[str, tuple[int, ...]], pool: torch.Tensor) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, start + _size(shape)]}
        start += _size(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (name, shape) in enumerate(tensors.items()):
            for values in _values(name, shape, pool, 7919 * number):
                file.write(values.view(torch.uint8).numpy().tobytes())


def _values(name: str, shape: tuple[int, ...], pool: torch.Tensor, at: int) -> Iterator[torch.Tensor]:
    """The values of a tensor in pieces: zeros for a bias, ones for the weight of a norm, else random numbers."""
    left = torch.Size(shape).numel()
    if len(shape) == 1:
        yield torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=torch.bfloat16)
        return
    at %= len(pool)
    while left:
        piece = pool[at : at + left]
        yield piece
        left, at = left - len(piece), 0


@contextmanager
def watched_workers() -> Iterator[dict[str, int]]:
    """Sample the memory of TorchServe's workers while it is open. Yields the peaks in bytes by kind."""
    peaks = {"anonymous": 0, "of files": 0}
    ended = Event()

    def sample() -> None:
        while not ended.wait(1):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "model_service_worker" in " ".join(process.cmdline()):
                        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                        found = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
                        for kind, key in (("anonymous", "RssAnon"), ("of files", "RssFile")):
                            peaks[kind] = max(peaks[kind], 1024 * found.get(key, 0))
                except (psutil.Error, OSError):
                    continue

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def own_bytes(folder: Path) -> int:
    """Bytes that a folder adds to the disk: links to files elsewhere add none."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_size for path in files if path.stat().st_nlink == 1)


def run(folder: Path, layers: int | None, pixels: int, steps: int, guidance_scale: float) -> list[list[str]]:
    """Write, pack, serve and generate; return the rows of the table. Raises RuntimeError if a step fails."""
    rows: list[list[str]] = []

    def timed(what: str, act: Callable[[], Any], remark: Callable[[Any], str] = lambda _: "") -> Any:
        began = time.monotonic()
        with waiting(what):
            found = act()
        rows.append([what, f"{time.monotonic() - began:.0f}", remark(found)])
        say(f"{rows[-1][0]}: {rows[-1][1]} s {rows[-1][2]}")
        return found

    def pack() -> Path:
        given = ["pack", "--large", str(large), "--small", str(small), "--format", "link", "--name", NAME]
        if hybridstitch([*given, "--out", str(store)]):
            raise RuntimeError("hybridstitch pack failed, see above")
        return store

    def written(paths: tuple[Path, Path]) -> str:
        return f"{sum(map(own_bytes, paths)) / GIB:.1f} GiB of files"

    store = folder / "store"
    large, small = folder / "large", folder / "small"
    if not large.exists():
        timed("write both models", lambda: write_models(folder, layers), written)
    timed("pack by link", pack, lambda path: f"{own_bytes(path) / GIB:.3f} GiB of disk")
    with watched_workers() as peaks, Server(store) as server:
        timed("start the worker: load, and a first picture by both models", lambda: server.register(NAME))
        client = Client(server.url, timeout=TIMEOUT, management_url=server.management_url, key_file=server.key_file)
        dtype = client.describe(NAME)[0]["customizedMetadata"]["dtype"]
        for recipe in ("large", "small"):
            what = f"a picture by {recipe}, {pixels} px, {steps} step, guidance {guidance_scale:g}"
            request: dict[str, Any] = {"recipe": recipe, "num_inference_steps": steps, "seed": 0}
            request |= {"width": pixels, "height": pixels, "guidance_scale": guidance_scale}
            timed(
                what,
                partial(client.generate, "a red apple", model=NAME, **request),
                lambda result: f"{result.image.size[0]} x {result.image.size[1]}, {dtype}",
            )
    rows.append(["peak memory of the worker, GiB", "", ", ".join(f"{each / GIB:.1f} {k}" for k, each in peaks.items())])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training.full_size", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("build/full-size"), help="where it works (%(default)s)")
    parser.add_argument("--layers", type=int, help="layers of each model, for a rehearsal (all)")
    parser.add_argument("--pixels", type=int, default=256, help="side of the picture (%(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="steps (%(default)s)")
    parser.add_argument("--guidance-scale", type=float, default=4.5, help="guidance scale (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the models and the archive, for another run")
    options = parser.parse_args()
    kept = {path.name for path in options.folder.iterdir()} if options.folder.exists() else set()
    if not kept <= {"large", "small", "store"}:
        print(f"error: --folder: expected a new folder, or a kept one, got {options.folder}", file=sys.stderr)
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    shapes = [SHAPES[name] if options.layers is None else cut(SHAPES[name], options.layers) for name in SCALES["sd35"]]
    needed = sum(map(_bytes_of, shapes)) + SPARE_BYTES
    free = shutil.disk_usage(options.folder).free
    if not kept and free < needed:
        print(f"error: --folder: expected {needed / GIB:.0f} GiB of free disk, got {free / GIB:.0f}", file=sys.stderr)
        return 2
    try:
        rows = run(options.folder, options.layers, options.pixels, options.steps, options.guidance_scale)
    finally:
        if not options.keep:
            shutil.rmtree(options.folder)
    print(f"{machine()}\n\n{markdown_table(['step', 'seconds', 'remarks'], rows)}")
    return 0


def _bytes_of(shape: Mapping[str, Any]) -> int:
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(**shape)
    return sum(_size(tuple(value.shape)) for value in transformer.state_dict().values())


if __name__ == "__main__":
    sys.exit(main())
