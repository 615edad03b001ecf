"""Several endpoints on the same prompts in one interleaved run, as a table.

`python -m hybridstitch.compare.several` serves a pair's two archives by one TorchServe, and compares recipes and speeds
with the plain endpoint. It reports figures without a verdict; `hybridstitch compare` judges two endpoints.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tqdm import tqdm

from hybridstitch.base.markdown import markdown_table
from hybridstitch.base.paths import EMBEDDED_PAIR, HELD_OUT_PROMPTS
from hybridstitch.base.prompt_files import KINDS, read_prompts
from hybridstitch.compare.endpoints.open import open_endpoint
from hybridstitch.compare.endpoints.spec import Answer, Endpoint, parse_endpoint
from hybridstitch.compare.measures import read_picture
from hybridstitch.compare.run.warmup import warm_up
from hybridstitch.errors import InvalidInput
from hybridstitch.measure.host import machine
from hybridstitch.measure.pixels import EQUAL_DB, psnr
from hybridstitch.recipe.catalogue import Catalogue
from hybridstitch.serving.server.served import PLAIN, STITCHED, served

RECIPES = ("large", "small", "two-stage", "hybridstitch")
SPEEDS = (1.83, 2.5, 4.0)
"""Speeds that are compared on a tuned pair."""
WARM_UP = 2
"""Requests to each endpoint that do not count."""
PAUSE_SECONDS = 0.5
"""Pause before each request: threads of the worker before it still use the processor for a moment."""


def interleaved(endpoints: Mapping[str, Endpoint], prompts: Sequence[str], pause: float) -> dict[str, list[Answer]]:
    """Send every prompt to every endpoint, seed i for prompt i.

    The order rotates from prompt to prompt, so that drift of the machine hits all endpoints alike.

    Args:
        endpoints: By name, warmed up.
        prompts: Texts.
        pause: Seconds before each request.

    Returns:
        The answers of each endpoint, in the order of the prompts.

    Raises:
        RuntimeError: for an answer without a picture.
    """
    names = [*endpoints]
    answers: dict[str, list[Answer]] = {name: [] for name in names}
    for seed, prompt in enumerate(tqdm(prompts, desc="prompts")):
        turn = seed % len(names)
        for name in names[turn:] + names[:turn]:
            time.sleep(pause)
            answer = endpoints[name].ask(prompt, seed)
            if answer.error:
                raise RuntimeError(f"{name}, prompt {seed}: {answer.error}")
            answers[name].append(answer)
    return answers


def summarise(answers: Mapping[str, Sequence[Answer]]) -> list[dict[str, Any]]:
    """One row an endpoint, each set against the first. Times are medians, PSNR is a mean with standard deviation."""
    pictures = {
        name: [read_picture(io.BytesIO(each.picture or b"")) for each in every] for name, every in answers.items()
    }
    seconds = {name: [each.seconds for each in every] for name, every in answers.items()}
    baseline = next(iter(answers))
    rows = []
    for name, every in answers.items():
        ratios = [plain / own for plain, own in zip(seconds[baseline], seconds[name], strict=True)]
        near = [psnr(own, plain) for own, plain in zip(pictures[name], pictures[baseline], strict=True)]
        low, middle, high = statistics.quantiles(seconds[name], n=4)
        rows.append(
            {
                "name": name,
                "requests": len(every),
                "median_s": middle,
                "quartiles_s": [low, high],
                "speedup": statistics.median(seconds[baseline]) / middle,
                "speedup_by_prompt": [min(ratios), max(ratios)],
                "flops_speedup": 1 / (every[-1].report or {"flops_share": 1.0})["flops_share"],
                "psnr_mean_db": statistics.mean(near),
                "psnr_std_db": statistics.stdev(near),
                "psnr_db": near,
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `summarise` in Markdown."""
    heads = ["contender", "requests", "median s (quartiles)", "speed-up (range by prompt)", "by FLOPs"]
    cells = []
    for row in rows:
        (low, high), (slowest, fastest) = row["quartiles_s"], row["speedup_by_prompt"]
        near = f"{row['psnr_mean_db']:.1f} ± {row['psnr_std_db']:.1f}" if row["psnr_mean_db"] < EQUAL_DB else "equal"
        times = f"{row['median_s']:.3f} ({low:.3f} to {high:.3f})"
        faster = f"{row['speedup']:.2f}x ({slowest:.2f} to {fastest:.2f})"
        cells.append([row["name"], str(row["requests"]), times, faster, f"{row['flops_speedup']:.2f}x", near])
    return markdown_table([*heads, f"PSNR to {rows[0]['name']}, dB"], cells)


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
    fields: dict[str, dict[str, Any]] = {PLAIN: {}}
    fields |= {name: {"recipe": name} for name in (*RECIPES, catalogue.masked)}
    fields |= {f"speed {speed:g}": {"speed": speed} for speed in SPEEDS if not catalogue.speed_problems(speed)}
    common = {"num_inference_steps": options.steps, "guidance_scale": options.guidance_scale, "kind": "hybridstitch"}
    with served(options.pair, options.out / "model_store", (STITCHED, PLAIN)) as server:
        endpoints = {}
        for name, own in fields.items():
            url = f"{server.url}/predictions/{PLAIN if name == PLAIN else STITCHED}"
            endpoints[name] = open_endpoint(parse_endpoint(f"{url}#{urlencode(common | own)}"), server.token())
            warm_up({name: endpoints[name]}, prompts[0], 0, WARM_UP)
        rows = summarise(interleaved(endpoints, prompts, PAUSE_SECONDS))
    settings = f"{len(prompts)} prompts, {options.steps} steps, guidance {options.guidance_scale}"
    text = f"{settings}; {machine()}\n\n{table(rows)}"
    (options.out / "http.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    (options.out / "http.md").write_text(text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
