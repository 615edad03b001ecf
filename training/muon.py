"""Muon for the matrices of the transformer blocks, over stacks of equal shapes.

`torch.optim.Muon` orthogonalises in bfloat16, one matrix at a time, which is slow on processors that multiply no
bfloat16 matrices; there float32 is used.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal: every direction of a matrix learns at the same rate.

    Args:
        params: 2-D parameters.
        lr: step size, times `sqrt(rows / columns)` where a matrix is taller than wide.
        momentum: share of the old average kept, with a Nesterov look-ahead.
        weight_decay: decoupled, times `lr`.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 0.01,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            stacks: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    stacks[parameter.shape].append(parameter)
            for shape, parameters in stacks.items():
                directions = [self._direction(parameter, group["momentum"]) for parameter in parameters]
                updates = _shared(torch.stack(directions))
                rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _direction(self, parameter: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        gradient = parameter.grad
        assert gradient is not None
        if "average" not in self.state[parameter]:
            self.state[parameter]["average"] = torch.zeros_like(parameter)
        average = self.state[parameter]["average"]
        average.lerp_(gradient, 1 - momentum)
        return gradient.lerp(average, momentum)


def _shared(matrices: torch.Tensor) -> torch.Tensor:
    """`orthogonalise`, each process of a torchrun doing its share: they all hold the same gradients."""
    if not dist.is_initialized():
        return orthogonalise(matrices)
    rank, world = dist.get_rank(), dist.get_world_size()
    result = torch.zeros_like(matrices)
    if rank < len(matrices):
        result[rank::world] = orthogonalise(matrices[rank::world])
    dist.all_reduce(result)
    return result


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Push all singular values of each of `(count, rows, columns)` matrices towards one (Newton-Schulz)."""
    tall = matrices.shape[1] > matrices.shape[2]
    result = matrices.mT if tall else matrices
    result = (result / result.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)).to(_fast_type(matrices.device))
    first, third, fifth = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = result @ result.mT
        result = first * result + (third * gram + fifth * gram @ gram) @ result
    return (result.mT if tall else result).to(matrices.dtype)


def _fast_type(device: torch.device) -> torch.dtype:
    """What the iterations are done in: they need little precision."""
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32
