"""The training loop: a stage is a time budget, not a step count, so the same stage fits a CPU and a GPU."""

import copy
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.scenes import Batch

WARM_UP_STEPS = 20
CHECKPOINT_SECONDS = 150
REPORT_SECONDS = 30
CHECK_SECONDS = 120
REPEATS = 2
"""Steps on batches of before for each new one, in stages that keep them. A repeated batch needs no teacher."""


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
    check: Callable[[nn.Module], float] | None = None
    """A figure of the averaged model on held-out scenes, printed beside the counters."""
    again: Callable[[nn.Module], torch.Tensor] | None = None
    """The loss of a batch that `loss` had before. With it, `REPEATS` such steps follow each new batch."""
    memory: float = 0.995
    """Share of the averaged weights that a step keeps. The averaged weights are what is exported."""


class Feeder(IterableDataset[Batch]):
    """Batches composed in other processes, each with a different seed."""

    def __init__(self, batches: Callable[[int], Iterator[Batch]], seed: int) -> None:
        self.batches, self.seed = batches, seed

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        return self.batches(self.seed + 1_000_003 * (worker.id if worker else 0))


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


def fall_from_half(progress: float) -> float:
    """Linear from half the rate to zero, for weights that were trained before."""
    return (1.0 - progress) / 2


def hold_then_fall(progress: float) -> float:
    """Constant for the first 65 %, then linear to zero."""
    return min(1.0, (1.0 - progress) / 0.35)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where it is faster: any recent GPU, most processors with AVX-512."""
    fast = device.type == "cuda" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


class Trainer:
    """One stage being trained in one process: weights, their average, and how far it has come."""

    def __init__(self, stage: Stage, folder: Path, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stage, self.device = stage, device
        self.checkpoint = folder / f"{stage.name}.pt"
        stage.model.to(device).train()
        self.average = copy.deepcopy(stage.model).requires_grad_(False)
        self.trained = [parameter for parameter in stage.model.parameters() if parameter.requires_grad]
        self.full_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in stage.optimizers]
        self.counters = self._restore() if self.checkpoint.exists() else Counters()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.seed = self.counters.step * self.world + self.rank
        random.seed(self.seed)
        torch.manual_seed(self.seed)

    @property
    def progress(self) -> float:
        """Share of the stage's time that is used up."""
        return self.counters.seconds / (60 * self.stage.minutes)

    def step(self, batch: Batch | None) -> None:
        """Learn from one batch, or from one of before if None, together with the other processes."""
        factor = self.stage.rate(self.progress) * min(1.0, (self.counters.step + 1) / WARM_UP_STEPS)
        for optimizer, full_rates in zip(self.stage.optimizers, self.full_rates, strict=True):
            for group, full_rate in zip(optimizer.param_groups, full_rates, strict=True):
                group["lr"] = factor * full_rate
        with autocast(self.device):
            loss = self._loss(batch)
        loss.backward()
        _average_gradients(self.trained)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimizer in self.stage.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.counters.step += 1
        self.counters.loss += max(1 / self.counters.step, 0.02) * (loss.item() - self.counters.loss)
        _update_average(self.average, self.stage.model, self.counters.step, self.stage.memory)

    def _loss(self, batch: Batch | None) -> torch.Tensor:
        if batch is None:
            assert self.stage.again is not None
            return self.stage.again(self.stage.model)
        inputs, captions = batch
        self.counters.samples += len(captions) * self.world
        return self.stage.loss(self.stage.model, (inputs.to(self.device), captions), self.progress)

    def save(self) -> None:
        """Write the checkpoint, in one move."""
        state = {
            "model": self.stage.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.stage.optimizers],
            "counters": vars(self.counters),
        }
        torch.save(state, self.checkpoint.with_suffix(".part"))
        self.checkpoint.with_suffix(".part").replace(self.checkpoint)

    def check(self) -> None:
        """Print the stage's figure of the averaged model."""
        if self.stage.check is not None and self.rank == 0:
            with autocast(self.device):
                figure = self.stage.check(self.average)
            print(f"{self.stage.name} check {figure:.5f} after {self.counters.samples} samples", flush=True)

    def _restore(self) -> Counters:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.stage.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, optimizer_state in zip(self.stage.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        return Counters(**state["counters"])


def run(stage: Stage, folder: Path, device: torch.device) -> None:
    """Train until the stage's time is used up, from its last checkpoint if there is one."""
    trainer = Trainer(stage, folder, device)
    if trainer.progress >= 1:
        return
    counters = trainer.counters
    workers = max(1, min(12, len(os.sched_getaffinity(0)) - 2)) if device.type == "cuda" else 1
    feeder = iter(DataLoader(Feeder(stage.batches, trainer.seed), batch_size=None, num_workers=workers))
    last_report = last_checkpoint = last_check = clock = time.monotonic()
    trainer.check()
    steps = 0
    period = 1 + REPEATS if stage.again else 1
    while trainer.progress < 1:
        trainer.step(None if steps % period else next(feeder))
        steps += 1
        now = time.monotonic()
        counters.seconds, clock = _agree(counters.seconds + now - clock), now
        if trainer.rank == 0 and now - last_report > REPORT_SECONDS:
            print(f"{stage.name} {trainer.progress:6.1%} {json.dumps(vars(counters))}", flush=True)
            last_report = now
        if now - last_check > CHECK_SECONDS:
            trainer.check()
            last_check = now
        if trainer.rank == 0 and now - last_checkpoint > CHECKPOINT_SECONDS:
            trainer.save()
            last_checkpoint = now
    trainer.check()
    if trainer.rank == 0:
        trainer.save()
        print(f"{stage.name} done {json.dumps(vars(counters))}", flush=True)
    if dist.is_initialized():
        dist.barrier()  # the next stage of any process starts from the checkpoint that the first one wrote


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
def _update_average(average: nn.Module, model: nn.Module, step: int, memory: float) -> None:
    """Exponential moving average, with a short memory at first."""
    decay = min(memory, (1 + step) / (10 + step))
    for kept, current in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(current, 1 - decay)


def load_average(folder: Path, stage_name: str, model: nn.Module) -> Counters:
    """Load the averaged weights of a stage's last checkpoint, finished or not, into `model`."""
    state = torch.load(folder / f"{stage_name}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["average"])
    return Counters(**state["counters"])
