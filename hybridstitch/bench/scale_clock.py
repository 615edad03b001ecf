"""The clock of `bench --scale`, its memory gauge, and a count of the operations that a forward starts."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hybridstitch.bench.scale_models import LATENT_PIXELS, cut, random_transformer
from hybridstitch.model.guidance import GuidedModel
from hybridstitch.model.mmdit import cached_attention

_NO_WORK = ("aten::empty", "aten::empty_strided", "aten::new_empty", "aten::_unsafe_view", "aten::lift_fresh")
"""Operations that compute nothing."""
_TINY_PIXELS = 4 * 2 * LATENT_PIXELS
_TRIALS = 5


class Clock:
    """Seconds of a device.

    On a CPU it is the CPU time of this process, divided by its threads: other processes do not change it. On an
    accelerator it is the time until the device has finished.

    Args:
        device: where the forwards run.
    """

    def __init__(self, device: torch.device):
        self.device = device

    @property
    def name(self) -> str:
        """What it measures, in words."""
        if self.device.type != "cpu":
            return "time until the device has finished"
        return f"CPU time divided by {torch.get_num_threads()} threads"

    def now(self) -> float:
        """Seconds since an arbitrary start."""
        if self.device.type == "cpu":
            return time.process_time() / torch.get_num_threads()
        torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def seconds(self, run: Callable[[], Any]) -> float:
        """Run it once and return its seconds."""
        began = self.now()
        run()
        return self.now() - began

    def wall_seconds(self, run: Callable[[], Any]) -> float:
        """Run it once and return its seconds by the clock on the wall, on a CPU, too."""
        self.now()
        began = time.monotonic()
        run()
        self.now()
        return time.monotonic() - began


def reset_peak(device: torch.device) -> None:
    """Start to measure the peak of a GPU's memory again."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Peak memory: on a GPU of tensors since `reset_peak`, otherwise of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Launches(TorchDispatchMode):
    """Counts the operations inside the block, without views and allocations. On a GPU each is at least one launch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func.name().partition(".")[0] in _NO_WORK)
        return func(*args, **(kwargs or {}))


def launches(shape: Mapping[str, Any], device: torch.device) -> tuple[dict[bool, int], float]:
    """Count the operations of a dense and of a subset forward, and measure the seconds that starting one takes.

    A model of the same layers and toy width starts as many operations, and they compute next to nothing.

    Args:
        shape: configuration of the model.
        device: where the seconds are measured.

    Returns:
        Operations by whether the forward is on a subset, and seconds of each operation.
    """
    toy = {"num_attention_heads": 1, "caption_projection_dim": 64, "joint_attention_dim": 64}
    toy |= {"pooled_projection_dim": 64, "pos_embed_max_size": 8}
    transformer = random_transformer({**cut(shape, shape["num_layers"]), **toy}, torch.float32, device)
    noise = torch.Generator(device).manual_seed(0)

    def random(*axes: int) -> torch.Tensor:
        return torch.randn(axes, device=device, generator=noise)

    side = _TINY_PIXELS // LATENT_PIXELS
    latents, timestep = random(1, 16, side, side), torch.tensor(500.0, device=device)
    model = GuidedModel(transformer, random(2, 8, 64), random(2, 64), 4.5, cached=True)
    some = torch.arange(4, device=device).unsqueeze(0)
    clock, counts = Clock(device), {}
    with torch.no_grad(), cached_attention(transformer):
        for subset in (False, True):
            with Launches() as counter:
                model(latents, timestep, some if subset else None)
            counts[subset] = counter.count
        took = min(clock.seconds(lambda: model(latents, timestep)) for _ in range(_TRIALS))
    return counts, took / counts[False]
