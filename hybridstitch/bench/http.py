"""The plain SD3 endpoint against ours, over HTTP, in one run: `python -m hybridstitch.bench.http`.

One TorchServe serves both archives. For every prompt each contender draws the same seed, in an order that rotates
from prompt to prompt, so that drift of the machine hits all alike; warm-up requests are not counted. Latency is what
the client sees. Fidelity is the PSNR of a contender's picture to the plain endpoint's own.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from hybridstitch.base.paths import EMBEDDED_PAIR, HELD_OUT_PROMPTS
from hybridstitch.base.prompt_files import KINDS, read_prompts
from hybridstitch.errors import InvalidInput
from hybridstitch.measure.host import machine
from hybridstitch.measure.pixels import EQUAL_DB, psnr
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.serving.client.client import Client
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server

BASELINE = "plain"
RECIPES = ("large", "small", "two-stage", "hybridstitch")
SPEEDS = (1.83, 2.5, 4.0)
"""Asked of pairs that were tuned."""
PAUSE_SECONDS = 0.5
"""Before each request: threads of the worker that was asked before spin for a moment, at the cost of the next one."""


@dataclass
class Asked:
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


def measure(
    client: Client, prompts: list[str], recipes: Sequence[str], speeds: Sequence[float], warmup: int, **common: Any
) -> list[Asked]:
    """Ask all contenders for all prompts, seed i for prompt i."""
    contenders = [Asked(BASELINE, "plain", {})]
    contenders += [Asked(name, "hybridstitch", {"recipe": name}) for name in recipes]
    contenders += [Asked(f"speed {speed:g}", "hybridstitch", {"speed": speed}) for speed in speeds]
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


def summarise(contenders: list[Asked]) -> list[dict[str, Any]]:
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


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| contender | requests | median s (quartiles) | speed-up (range by prompt) | by FLOPs | PSNR to plain, dB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["quartiles_s"]
        slowest, fastest = row["speedup_by_prompt"]
        quality = f"{row['psnr_mean_db']:.1f} ± {row['psnr_std_db']:.1f}" if row["psnr_mean_db"] < EQUAL_DB else "equal"
        lines.append(
            f"| {row['name']} | {row['requests']} | {row['median_s']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {row['speedup']:.2f}x ({slowest:.2f} to {fastest:.2f}) | {row['flops_speedup']:.2f}x | {quality} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare recipes with the plain SD3 endpoint over HTTP.")
    parser.add_argument("--pair", type=Path, default=EMBEDDED_PAIR, help="a packed pair folder")
    parser.add_argument("--prompts", type=Path, default=HELD_OUT_PROMPTS, help=f"a {KINDS} file")
    parser.add_argument("--count", type=int, default=16, help="how many of the prompts (default 16)")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--guidance-scale", type=float, default=4.5)
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for http.json and http.md")
    options = parser.parse_args()

    try:
        prompts = read_prompts(options.prompts, options.count)
    except InvalidInput as error:
        parser.error(str(error))
    if len(prompts) < 2:
        parser.error("--count: expected at least 2")
    catalogue = Catalogue.load().of_pair(options.pair)
    recipes = dict.fromkeys([*RECIPES, catalogue.default])
    speeds = [speed for speed in SPEEDS if not catalogue.speed_problems(speed)]
    store = options.out / "model_store"
    for plain in (False, True):
        pack(options.pair, plain=plain, out=store)
    with Server(store) as server:
        for model in ("hybridstitch", "plain"):
            server.register(model)
        common = {"num_inference_steps": options.steps, "guidance_scale": options.guidance_scale}
        contenders = measure(server.client, prompts, [*recipes], speeds, warmup=2, **common)
    rows = summarise(contenders)
    settings = f"{len(prompts)} prompts, {options.steps} steps, guidance {options.guidance_scale}"
    said = f"{settings}; {machine()}\n\n{table(rows)}\n"
    (options.out / "http.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    (options.out / "http.md").write_text(said)
    sys.stdout.write(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
