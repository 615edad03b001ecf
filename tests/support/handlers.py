"""Handlers on TorchServe's own context objects, without a server."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from hybridstitch.base.paths import ROOT

HTTP = {"Host": "127.0.0.1", "Content-Type": "application/json"}
WHY = HTTP | {"explain": "True"}
"""The headers of what came to /explanations."""
QUICK = {"prompt": "x", "seed": 1, "num_inference_steps": 1}
STITCHED = {"plan": {"type": "staged", "large": 0.5, "hybrid": 0.5, "share": 0.25}}
"""Two of four steps have a mask."""
CONFIG = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())


def make_handler(name: str, pair: Path, config: dict[str, Any] = CONFIG) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "handler" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]
    assert len(classes) == 1, "TorchServe wants exactly one class in a handler's file"
    handler = classes[0]()
    handler.initialize(Context("x", str(pair.parent), {}, 1, None, "0.12.0", model_yaml_config=config))
    return handler


def call(
    handler: Any, rows: list[dict[str, Any]], headers: dict[str, str] | list[dict[str, str]] | None = None
) -> tuple[Any, Context]:
    """headers: those of every row, or of each."""
    context = handler.context
    of_each = headers if isinstance(headers, list) else [HTTP if headers is None else headers] * len(rows)
    context.request_processor = [RequestProcessor(dict(each)) for each in of_each]
    context.request_ids = {index: f"id-{index}" for index in range(len(rows))}
    context.metrics = MetricsCacheYamlImpl(config_file_path=ROOT / "handler" / "metrics.yaml")
    context.metrics.initialize_cache()
    context.metrics.model_name = "x"
    context.metrics.request_ids = ",".join(context.request_ids.values())
    return handler.handle(rows, context), context


def pixels(answer: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer)), dtype=np.int16)
