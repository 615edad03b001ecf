"""`hybridstitch demo`: packs a pair, serves it, sends one prompt over HTTP and keeps the picture; on Ray Serve, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from hybridstitch.base.extras import require
from hybridstitch.base.images import encode_image
from hybridstitch.base.overlay import mask_overlay
from hybridstitch.base.paths import EMBEDDED_PAIR
from hybridstitch.cli.report_lines import report_lines
from hybridstitch.serving.manifest import read_archive
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
    from hybridstitch.recipe.catalogue import Catalogue

    recipe = Catalogue.load().of_pair(pair).masked  # the default recipe may make no mask to show
    with served(pair, out / "model_store", report=say) as server:
        say(f'generating "{PROMPT}"')
        server.client.generate(PROMPT, seed=0, num_inference_steps=2)  # the first picture also warms the worker up
        result = server.client.generate(PROMPT, seed=0, recipe=recipe)
    (out / "apple.png").write_bytes(result.image_bytes)
    (out / "apple.json").write_text(json.dumps(result.report, indent=2))
    (out / "apple-mask.png").write_bytes(encode_image(mask_overlay(result.image, result.report), "png"))
    for line in ["", *report_lines(result.report), "", f"written: {out}/apple.png, apple.json, apple-mask.png"]:
        say(line)


def run_ray_demo(say: Callable[[str], None], out: Path, pair: Path = EMBEDDED_PAIR) -> None:
    """Generate a picture on TorchServe and on two replicas of Ray Serve, and write apple.png if both are equal.

    Args:
        say: Prints a line for the user.
        out: Folder of the picture, and of the model store.
        pair: Folder of the packed pair to serve.

    Raises:
        InvalidInput, OSError, RuntimeError: As `served`, `RayServer` and `Client.predict` do, and RuntimeError if the
            pictures differ. The servers are stopped in any case.
    """
    from hybridstitch.serving.ray.server import RayServer

    require("ray", "ray")
    request = {"prompt": PROMPT, "seed": 0, "request_id": "demo"}
    with served(pair, out / "model_store", report=say) as torchserve:
        theirs = torchserve.client.predict(request).content
    say("starting Ray Serve with two replicas")
    with RayServer([read_archive(out / "model_store" / "hybridstitch.mar")], replicas=2) as server:
        say(f"{server.url} is ready")
        ours = server.client.predict(request).content
    say("Ray Serve is stopped")
    if ours != theirs:
        raise RuntimeError("the pictures of TorchServe and of Ray Serve differ")
    (out / "apple.png").write_bytes(ours)
    say(f"the pictures of both servers are equal byte by byte: {out}/apple.png")
