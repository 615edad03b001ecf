"""The latent space, fixed before any training: a linear projection of 4x4 pixel blocks.

Each 4x4x3 block (48 numbers) becomes its 16 leading principal components. Component i is divided by the
square root of its standard deviation, which evens the components out without blowing up the faint ones.
Being linear and known from the start, it lets the transformers train before the autoencoder's decoder exists.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

BLOCK = 4
CHANNELS = 16


@dataclass(frozen=True)
class Projection:
    """`latent = forward @ (block - mean)` and `block = backward @ latent + mean`, a block being (3, 4, 4) flat."""

    mean: torch.Tensor
    """`(48,)`."""
    forward: torch.Tensor
    """`(16, 48)`."""
    backward: torch.Tensor
    """`(48, 16)`."""
    scale: torch.Tensor
    """Scalar: latents times this have a standard deviation of one, as the transformers want them."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """`(batch, 3, side, side)` in -1..1 to latents `(batch, 16, side / 4, side / 4)`, not scaled, in float32."""
        with torch.autocast(pixels.device.type, enabled=False):
            blocks = functional.pixel_unshuffle(pixels, BLOCK) - self.mean.view(1, -1, 1, 1)
            return functional.conv2d(blocks, self.forward[:, :, None, None])

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The linear inverse of `encode`: what the decoder has to beat."""
        blocks = functional.conv2d(latents, self.backward[:, :, None, None]) + self.mean.view(1, -1, 1, 1)
        return functional.pixel_shuffle(blocks, BLOCK)

    def to(self, device: torch.device) -> "Projection":
        """The same projection on another device."""
        return Projection(*(tensor.to(device) for tensor in vars(self).values()))

    def save(self, path: Path) -> None:
        """Write the four tensors as safetensors."""
        save_file({name: tensor.contiguous() for name, tensor in vars(self).items()}, path)


def load(path: Path) -> Projection:
    """Read what `Projection.save` wrote."""
    return Projection(**load_file(path))


def fit(pixels: torch.Tensor) -> Projection:
    """Principal components of the 4x4 blocks of `(batch, 3, side, side)` pixels in -1..1."""
    blocks = functional.pixel_unshuffle(pixels, BLOCK).permute(0, 2, 3, 1).reshape(-1, 3 * BLOCK * BLOCK).double()
    mean = blocks.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov((blocks - mean).T))
    leading = variances.argsort(descending=True)[:CHANNELS]
    root = variances[leading].pow(0.25)
    forward = directions[:, leading].T / root[:, None]
    backward = directions[:, leading] * root
    scale = 1 / ((blocks - mean) @ forward.T).std()
    return Projection(mean.float(), forward.float(), backward.float(), scale.float())
