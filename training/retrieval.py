"""Does a picture show what it should? Nearest concept by features of a network that never saw this project.

EfficientNet-Lite0, trained on ImageNet by others, turns pictures into features. Its labels mean nothing for emoji, so
real scenes locate each concept: a linear discriminant, fitted in closed form, measures the distance of a
picture to the mean of every concept in units of what style, background and place do to the features.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from hybridstitch.measure.perceptual import as_input, load_network
from training.scenes import Library, compose
from training.vocabulary import STYLES, Scene, random_background

INPUT_SIDE = 160
"""Pixels that the network sees; more is slower and hardly better for pictures of 128."""
REAL_EACH = 12
"""Real scenes for every concept that the discriminant is fitted on."""
SHRINKAGE = 0.1
"""How far the covariance within concepts is pulled towards a multiple of the identity."""


class Features:
    """Pictures to unit vectors of 1280 features."""

    def __init__(self) -> None:
        self.network = load_network()

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray) -> torch.Tensor:
        """`(count, side, side, 3)` uint8 to `(count, 1280)` float64."""
        rows = []
        for part in torch.from_numpy(pictures).split(32):
            pixels = as_input(part.permute(0, 3, 1, 2) / 255)
            pixels = functional.interpolate(pixels, (INPUT_SIDE, INPUT_SIDE), mode="bilinear", antialias=True)
            rows.append(functional.normalize(self.network.extract_features(pixels).mean((2, 3))))
        return torch.cat(rows).double()


@dataclass(frozen=True)
class Discriminant:
    """Whitened features and the mean of every concept among them."""

    concepts: list[str]
    whiten: torch.Tensor
    """`(1280, 1280)`: the inverse root of the covariance within concepts."""
    means: torch.Tensor
    """`(concepts, 1280)`, whitened."""

    def rank(self, features: torch.Tensor, concepts: list[str]) -> np.ndarray:
        """For each picture how many concepts lie nearer than its own: 0 is a hit, below 5 one of the top five."""
        distances = torch.cdist(features @ self.whiten, self.means)
        own = distances[range(len(concepts)), [self.concepts.index(concept) for concept in concepts]]
        return (distances < own[:, None]).sum(1).numpy()


def fit(library: Library, network: Features) -> Discriminant:
    """Place every concept by real scenes of it, large and alone, in all styles and on random backgrounds."""
    rng = random.Random(1)
    concepts = list(library.weights)
    rows = []
    for concept in concepts:
        styles = [style for style in STYLES if (concept, style) in library.sprites]
        drawn = [Scene((concept,), styles[index % len(styles)], random_background(rng)) for index in range(REAL_EACH)]
        rows.append(network(np.stack([compose(library, scene, 128, rng) for scene in drawn])))
    features = torch.stack(rows)
    means = features.mean(1)
    within = torch.cov((features - means[:, None]).flatten(0, 1).T)
    within = (1 - SHRINKAGE) * within + SHRINKAGE * within.diagonal().mean() * torch.eye(len(within))
    variances, directions = torch.linalg.eigh(within)
    whiten = directions / variances.sqrt() @ directions.T
    return Discriminant(concepts, whiten, means @ whiten)


def halves(picture: np.ndarray) -> np.ndarray:
    """The two objects of a scene with two, cut out and enlarged: `(2, 128, 128, 3)`."""
    quarter = picture.shape[0] // 4
    cuts = [picture[quarter : 3 * quarter, start : start + 2 * quarter] for start in (0, 2 * quarter)]
    return np.stack([each.repeat(2, 0).repeat(2, 1) for each in cuts])


def kernel_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """Squared maximum mean discrepancy, unbiased, with the cubic kernel of the kernel inception distance, times 1000.

    Zero, give or take, where both sets of unit vectors `(count, 1280)` come from one distribution. Row i of both sets
    shows the same scene, so these pairs are left out as a picture's pair with itself is.
    See Binkowski et al., Demystifying MMD GANs (2018).
    """

    def mean_kernel(rows: torch.Tensor, columns: torch.Tensor) -> float:
        values = (rows @ columns.T + 1) ** 3
        return float((values.sum() - values.diagonal().sum()) / (len(rows) * (len(rows) - 1)))

    return 1000 * (mean_kernel(first, first) + mean_kernel(second, second) - 2 * mean_kernel(first, second))
