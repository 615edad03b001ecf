"""`compile: blocks` in a running TorchServe: the pictures of an eager worker, and no new graph once it is ready."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hybridstitch.base.paths import ROOT
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from hybridstitch.testing.toys import tiny_transformer
from tests.support.served import QUICK
from tests.support.tiny import make_pipeline

pytestmark = pytest.mark.slow

EAGER, COMPILED = "eager", "compiled"
REQUESTS: list[dict[str, Any]] = [
    {"recipe": "large"},
    {"recipe": "small"},
    {"recipe": "hybridstitch", "num_inference_steps": 8},
    {"recipe": "hybridstitch", "num_inference_steps": 8, "seed": 1, "width": 32},
    {"recipe": "ras", "num_inference_steps": 8, "num_images": 2},
]
"""Another size, another share of the tokens and a larger batch, too."""


@pytest.fixture(scope="module")
def endpoints(server: Server, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two endpoints on a pair with one block in each model: a compiler takes seconds for each kind of block.

    The large model has three heads. Torch takes sizes that are equal at first, such as two heads and the two rows of a
    guided picture, for the same.
    """
    folder = tmp_path_factory.mktemp("shallow")
    make_pipeline("sd35-large", layers=1, heads=3, caption_projection_dim=24).save_pretrained(folder / "pair")
    tiny_transformer("sd3", layers=1, heads=1, seed=1).save_pretrained(folder / "pair" / "transformer_small")
    config = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())
    try:
        for name, mode in ((EAGER, "none"), (COMPILED, "blocks")):
            settings = {"compile": mode, "compile_cache": str(folder / "cache"), "explanations": False}
            own = {**config, "startupTimeout": 3600, "handler": {**config["handler"], **settings}}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))
            pack(folder / "pair", out=store, name=name, config=folder / f"{name}.yaml")
            server.register(name)
        yield server
    finally:
        for name in server.client.models():
            if name in (EAGER, COMPILED):
                server.client.unregister(name)


def graphs(server: Server, name: str) -> int:
    return server.client.describe(name)[0]["customizedMetadata"]["compiled_graphs"]


def test_pictures_are_those_of_an_eager_worker_and_graphs_are_kept(endpoints: Server) -> None:
    ready = graphs(endpoints, COMPILED)
    assert (graphs(endpoints, EAGER), ready > 0) == (0, True)
    for request in REQUESTS:
        eager, compiled = (
            endpoints.client.generate(**{**QUICK, **request}, model=name).images for name in (EAGER, COMPILED)
        )
        for one, other in zip(eager, compiled, strict=True):
            difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))
            assert difference.max() <= 2, request
    assert graphs(endpoints, COMPILED) == ready
