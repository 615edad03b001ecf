"""The whole main job once: pack the embedded pair, serve it, send a prompt over HTTP, keep the picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hybridstitch.base.images import mask_overlay, report_lines
from hybridstitch.base.paths import EMBEDDED_PAIR
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server

PROMPT = "a red apple on blue"


def run_demo(say: Callable[[str], None], out: Path = Path("demo"), pair: Path = EMBEDDED_PAIR) -> None:
    """Write apple.png, apple.json and apple-mask.png to `out`. `say` takes a line for the user.

    Raises what packing, starting the server and the request may raise; the server is stopped in any case.
    """
    say("packing the embedded pair")
    archive = pack(pair, out=out / "model_store")
    say(f"{archive} ({archive.stat().st_size / 2**20:.0f} MiB); starting TorchServe")
    with Server(archive.parent) as server:
        server.register("hybridstitch")
        say(f'{server.url} is ready; asking for "{PROMPT}"')
        server.client.generate(PROMPT, seed=0, num_inference_steps=2)  # the first picture also warms the worker up
        result = server.client.generate(PROMPT, seed=0)
    say("the server is stopped")
    (out / "apple.png").write_bytes(result.image_bytes)
    (out / "apple.json").write_text(json.dumps(result.report, indent=2))
    mask_overlay(result.image, result.report).save(out / "apple-mask.png")
    for line in ["", *report_lines(result.report), "", f"written: {out}/apple.png, apple.json, apple-mask.png"]:
        say(line)
