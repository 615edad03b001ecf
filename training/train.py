"""The training loop: a stage is a time budget, not a step count, so the same stage fits a CPU and a GPU."""

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from training.data import Batch, Feeder

WARM_UP_STEPS = 20
EMA_DECAY = 0.995
CHECKPOINT_SECONDS = 150
REPORT_SECONDS = 30


@dataclass
class Stage:
    """What one stage trains and how.

    `loss(model, batch, progress)` gives a scalar; `rate(progress)` scales every learning rate; progress runs
    from 0 to 1 over the stage. `batches(seed)` is an endless iterator of training scenes.
    """

    name: str
    minutes: float
    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    loss: Callable[[nn.Module, Batch, float], torch.Tensor]
    rate: Callable[[float], float]
    batches: Callable[[int], Iterator[Batch]]


@dataclass
class Counters:
    """How far a stage has come. `loss` is a running mean over about the last 50 steps."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    loss: float = 0.0


def hold(progress: float) -> float:
    """Constant learning rate."""
    return 1.0


def fall(progress: float) -> float:
    """Linear from full rate to zero."""
    return 1.0 - progress


def hold_then_fall(progress: float) -> float:
    """Constant for the first 65 %, then linear to zero."""
    return min(1.0, (1.0 - progress) / 0.35)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes with it: any recent GPU, processors from AVX-512 on."""
    fast = device.type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def run(stage: Stage, folder: Path, device: torch.device) -> None:
    """Train until the stage's time is used up, from its last checkpoint if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{stage.name}.pt"
    stage.model.to(device).train()
    average = copy.deepcopy(stage.model).requires_grad_(False)
    counters = Counters()
    if checkpoint.exists():
        counters = _restore(checkpoint, stage, average, device)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    random.seed(counters.step * world + rank)
    torch.manual_seed(counters.step * world + rank)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in stage.optimizers]
    feeder = Feeder(stage.batches(counters.step * world + rank))
    trained = [parameter for parameter in stage.model.parameters() if parameter.requires_grad]
    last_report = last_checkpoint = clock = time.monotonic()
    while (progress := counters.seconds / (60 * stage.minutes)) < 1:
        factor = stage.rate(progress) * min(1.0, (counters.step + 1) / WARM_UP_STEPS)
        for optimizer, rates in zip(stage.optimizers, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        pixels, captions = next(feeder)
        with autocast(device):
            loss = stage.loss(stage.model, (pixels.to(device), captions), progress)
        loss.backward()
        _average_gradients(trained)
        nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in stage.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        counters.step += 1
        counters.samples += len(captions) * world
        _update_average(average, stage.model, counters.step)
        weight = max(1 / counters.step, 0.02)
        counters.loss += weight * (loss.item() - counters.loss)
        now = time.monotonic()
        counters.seconds, clock = _agree(counters.seconds + now - clock), now
        if rank > 0:
            continue
        if now - last_report > REPORT_SECONDS:
            print(f"{stage.name} {progress:6.1%} {json.dumps(vars(counters))}", flush=True)
            last_report = now
        if now - last_checkpoint > CHECKPOINT_SECONDS:
            _save(checkpoint, stage, average, counters, base_rates)
            last_checkpoint = now
    feeder.close()
    if rank > 0:
        return
    _save(checkpoint, stage, average, counters, base_rates)
    print(f"{stage.name} done {json.dumps(vars(counters))}", flush=True)


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Take the mean over the processes of a torchrun, each of which saw other scenes."""
    if dist.is_initialized():
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]) / dist.get_world_size()
        dist.all_reduce(flat)
        for gradient, mean in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _agree(seconds: float) -> float:
    """The first process's clock, so that all of them stop after the same step."""
    if not dist.is_initialized():
        return seconds
    shared = torch.tensor(seconds, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return shared.item()


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential moving average, with a short memory at first."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for kept, current in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(current, 1 - decay)


def _save(path: Path, stage: Stage, average: nn.Module, counters: Counters, base_rates: list[list[float]]) -> None:
    for optimizer, rates in zip(stage.optimizers, base_rates, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    state = {
        "model": stage.model.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in stage.optimizers],
        "counters": vars(counters),
    }
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def _restore(path: Path, stage: Stage, average: nn.Module, device: torch.device) -> Counters:
    state = torch.load(path, map_location=device, weights_only=True)
    stage.model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for optimizer, optimizer_state in zip(stage.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(optimizer_state)
    return Counters(**state["counters"])


def load_average(folder: Path, stage_name: str, model: nn.Module) -> Counters:
    """Load the averaged weights of a stage's last checkpoint, finished or not, into `model`."""
    state = torch.load(folder / f"{stage_name}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["average"])
    return Counters(**state["counters"])
