"""How much noise the scenes get that transformers learn from."""

import torch


def noise_levels(count: int, shift: float, device: torch.device) -> torch.Tensor:
    """Sigmas of SD3's shifted logit-normal distribution, in random order: one from each of `count` equal shares of it.

    Levels drawn one by one would bunch up in a small batch, and its loss would tell more of them than of the model.
    """
    quantiles = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    sigma = torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6)).sigmoid()
    return shift * sigma / (1 + (shift - 1) * sigma)
