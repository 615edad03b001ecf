"""The plain SD3 endpoint against ours, over HTTP, in one run: `python -m hybridstitch.bench.http`.

One TorchServe serves both archives. For every prompt each contender draws the same seed, in an order that rotates
from prompt to prompt, so that drift of the machine hits all alike; warm-up requests are not counted. Latency is what
the client sees. Fidelity is the PSNR of a contender's picture to the plain endpoint's own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from hybridstitch.recipes import recipes
from hybridstitch.serving.archive import ROOT, pack
from hybridstitch.serving.client import Client
from hybridstitch.serving.server import Server

PAIR = ROOT / "models" / "emoji"
BASELINE = "plain"
PAUSE_SECONDS = 0.5
"""Before each request: threads of the worker that was asked before spin for a moment, at the cost of the next one."""


@dataclass
class Contender:
    """One way to ask for a picture, and what came of it, a number for each prompt."""

    name: str
    model: str
    fields: dict[str, Any]
    seconds: list[float] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    flops_share: float = 1.0

    def ask(self, client: Client, prompt: str, **common: Any) -> np.ndarray:
        """Send one request; its pixels, `(height, width, 3)` in 0..1."""
        time.sleep(PAUSE_SECONDS)
        started = time.perf_counter()
        response = client.predict({"prompt": prompt, **common, **self.fields}, self.model)
        self.seconds.append(time.perf_counter() - started)
        self.flops_share = float(response.headers["x-hybridstitch-flops-share"])
        return np.asarray(Image.open(io.BytesIO(response.content)).convert("RGB"), dtype=np.float64) / 255


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two pictures in 0..1; 99 for equal ones."""
    error = float(np.mean((image - reference) ** 2))
    return 99.0 if error == 0 else -10 * float(np.log10(error))


def measure(client: Client, prompts: list[str], warmup: int, **common: Any) -> list[Contender]:
    """Ask all contenders for all prompts, seed i for prompt i."""
    contenders = [Contender(BASELINE, "plain", {})]
    contenders += [Contender(name, "hybridstitch", {"recipe": name}) for name in recipes()]
    for contender in contenders:
        for _ in range(warmup):
            contender.ask(client, prompts[0], seed=0, **common)
        contender.seconds.clear()
    for seed, prompt in enumerate(tqdm(prompts, desc="prompts")):
        turn = seed % len(contenders)
        pictures = {
            contender.name: contender.ask(client, prompt, seed=seed, **common)
            for contender in contenders[turn:] + contenders[:turn]
        }
        for contender in contenders:
            contender.psnr.append(psnr(pictures[contender.name], pictures[BASELINE]))
    return contenders


def summarise(contenders: list[Contender]) -> list[dict[str, Any]]:
    """One row a contender: seconds and dB as median or mean with their spread."""
    baseline = contenders[0]
    rows = []
    for contender in contenders:
        ratios = [plain / ours for plain, ours in zip(baseline.seconds, contender.seconds, strict=True)]
        low, middle, high = statistics.quantiles(contender.seconds, n=4)
        rows.append(
            {
                "name": contender.name,
                "requests": len(contender.seconds),
                "median_s": middle,
                "quartiles_s": [low, high],
                "speedup": statistics.median(baseline.seconds) / middle,
                "speedup_by_prompt": [min(ratios), max(ratios)],
                "flops_speedup": 1 / contender.flops_share,
                "psnr_mean_db": statistics.mean(contender.psnr),
                "psnr_std_db": statistics.stdev(contender.psnr),
                "psnr_db": contender.psnr,
            }
        )
    return rows


def spread(lines: list[str], count: int) -> list[str]:
    """`count` of the lines, evenly spaced, so that a sorted file gives all its subjects a chance."""
    return [lines[index * len(lines) // count] for index in range(count)]


def machine() -> str:
    """The processor, its cores, and the versions that the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")), cpu
        )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "torchserve"))
    return f"{cpu}, {os.cpu_count()} cores, no GPU used, float32; Python {platform.python_version()}, {packages}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| contender | requests | median s (quartiles) | speed-up (range by prompt) | by FLOPs | PSNR to plain, dB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["quartiles_s"]
        slowest, fastest = row["speedup_by_prompt"]
        quality = f"{row['psnr_mean_db']:.1f} ± {row['psnr_std_db']:.1f}" if row["psnr_mean_db"] < 99 else "equal"
        lines.append(
            f"| {row['name']} | {row['requests']} | {row['median_s']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {row['speedup']:.2f}x ({slowest:.2f} to {fastest:.2f}) | {row['flops_speedup']:.2f}x | {quality} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare recipes with the plain SD3 endpoint over HTTP.")
    parser.add_argument("--pair", type=Path, default=PAIR, help="a packed pair folder")
    parser.add_argument("--prompts", type=Path, default=PAIR / "heldout_prompts.txt", help="one prompt a line")
    parser.add_argument("--count", type=int, default=32, help="how many of the prompts (default 32)")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance-scale", type=float, default=4.5)
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for http.json and http.md")
    options = parser.parse_args()

    available = options.prompts.read_text().splitlines()
    if not 2 <= options.count <= len(available):
        parser.error(f"--count: expected 2 to {len(available)}, the prompts in {options.prompts}, got {options.count}")
    prompts = spread(available, options.count)
    store = options.out / "model_store"
    for plain in (False, True):
        pack(options.pair, plain=plain, out=store)
    with Server(store) as server:
        for model in ("hybridstitch", "plain"):
            server.register(model)
        contenders = measure(
            server.client, prompts, 2, num_inference_steps=options.steps, guidance_scale=options.guidance_scale
        )
    rows = summarise(contenders)
    settings = f"{len(prompts)} prompts, {options.steps} steps, guidance {options.guidance_scale}"
    said = f"{settings}; {machine()}\n\n{table(rows)}\n"
    (options.out / "http.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    (options.out / "http.md").write_text(said)
    sys.stdout.write(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
