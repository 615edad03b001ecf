"""The noise levels of the scenes that transformers learn from."""

import torch


def noise_levels(count: int, shift: float, device: torch.device) -> torch.Tensor:
    """Sigmas of SD3's shifted logit-normal distribution, one from each of `count` quantiles, in random order.

    Independent samples would bunch up in a small batch, and its loss would depend more on them than on the model.
    """
    quantiles = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    sigma = torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6)).sigmoid()
    return shift * sigma / (1 + (shift - 1) * sigma)
