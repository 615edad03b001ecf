"""`hybridstitch demo`: packs a pair, serves it, sends one prompt over HTTP and keeps the picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hybridstitch.base.images import encode_image
from hybridstitch.base.overlay import mask_overlay
from hybridstitch.base.paths import EMBEDDED_PAIR
from hybridstitch.cli.report_lines import report_lines
from hybridstitch.serving.server.served import served

PROMPT = "a red apple on blue"


def run_demo(say: Callable[[str], None], out: Path = Path("demo"), pair: Path = EMBEDDED_PAIR) -> None:
    """Write apple.png, apple.json and apple-mask.png.

    Args:
        say: Prints a line for the user.
        out: Folder of the three files, and of the model store.
        pair: Folder of the packed pair to serve.

    Raises:
        InvalidInput, OSError, RuntimeError: As `served` and `Client.generate` do. The server is stopped in any case.
    """
    with served(pair, out / "model_store", report=say) as server:
        say(f'generating "{PROMPT}"')
        server.client.generate(PROMPT, seed=0, num_inference_steps=2)  # the first picture also warms the worker up
        result = server.client.generate(PROMPT, seed=0)
    (out / "apple.png").write_bytes(result.image_bytes)
    (out / "apple.json").write_text(json.dumps(result.report, indent=2))
    (out / "apple-mask.png").write_bytes(encode_image(mask_overlay(result.image, result.report), "png"))
    for line in ["", *report_lines(result.report), "", f"written: {out}/apple.png, apple.json, apple-mask.png"]:
        say(line)
