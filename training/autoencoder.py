"""A stock `AutoencoderKL` for the fixed latent space: the encoder written down, the decoder trained.

The encoder has to compute `latents.Projection.encode`, a linear map, so its weights follow in closed form:
two stride-two convolutions gather the 4x4 blocks and project them, residual blocks stay identities, and the
last normalisation is held still by large constant channels. SiLU drops out too: silu(x) - silu(-x) = x.
"""

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Encoder
from torch.nn import functional

from training.latents import CHANNELS, Projection

WIDTHS = (16, 32, 64)
GROUPS = 4
CONSTANT = 64.0
"""Value of the channels that pin the last normalisation; far above any latent, so the scale hardly moves."""
LOG_VARIANCE = -30.0
"""The lowest that diffusers keeps: sampling from the posterior adds no visible noise."""


def build(projection: Projection) -> AutoencoderKL:
    """The autoencoder with its encoder in place and its decoder untrained."""
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=GROUPS,
        sample_size=128,
        scaling_factor=round(float(projection.scale), 6),
        shift_factor=0.0,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )
    with torch.no_grad():
        write_encoder(autoencoder.encoder, projection)
    autoencoder.encoder.requires_grad_(False)
    return autoencoder


def write_encoder(encoder: Encoder, projection: Projection) -> None:
    """Set every weight of the encoder so that its mean output is `projection.encode(pixels)`."""
    for parameter in encoder.parameters():
        parameter.zero_()
    first, second, third = encoder.down_blocks
    for channel in range(3):
        encoder.conv_in.weight[channel, channel, 1, 1] = 1
    # Channel 4c + 2y + x after the first stride: pixel (y, x) of a 2x2 block, colour c.
    gather = first.downsamplers[0].conv.weight
    for channel in range(12):
        colour, row, column = channel // 4, channel // 2 % 2, channel % 2
        gather[channel, colour, row, column] = 1
        second.resnets[0].conv_shortcut.weight[channel, channel] = 1
    # The second stride sees all 48 numbers of a 4x4 block: project them, and keep the negatives too.
    project = second.downsamplers[0].conv
    blocks = projection.forward.view(CHANNELS, 3, 2, 2, 2, 2)  # latent, colour, row (coarse, fine), column (same)
    kernel = blocks.permute(0, 1, 3, 5, 2, 4).reshape(CHANNELS, 12, 2, 2)
    offset = projection.forward @ projection.mean
    project.weight[:CHANNELS, :12, :2, :2] = kernel
    project.weight[CHANNELS:, :12, :2, :2] = -kernel
    project.bias[:CHANNELS] = -offset
    project.bias[CHANNELS:] = offset
    # Per normalisation group: some latents, their negatives, and as many constants of either sign.
    size, share = WIDTHS[-1] // GROUPS, CHANNELS // GROUPS
    spread = third.resnets[0].conv_shortcut
    for latent in range(CHANNELS):
        start = latent // share * size + latent % share
        spread.weight[start, latent] = 1
        spread.weight[start + share, CHANNELS + latent] = 1
        spread.bias[start + 2 * share] = CONSTANT
        spread.bias[start + 3 * share] = -CONSTANT
        encoder.conv_out.weight[latent, start, 1, 1] = 1
        encoder.conv_out.weight[latent, start + share, 1, 1] = -1
    encoder.conv_norm_out.weight.fill_(CONSTANT * 0.5**0.5)
    encoder.conv_out.bias[CHANNELS:] = LOG_VARIANCE


def read_projection(autoencoder: AutoencoderKL) -> Projection:
    """The projection that `build` wrote into an encoder; half precision has rounded it."""
    project = autoencoder.encoder.down_blocks[1].downsamplers[0].conv
    kernel = project.weight[:CHANNELS, :12, :2, :2].detach().float()
    blocks = kernel.reshape(CHANNELS, 3, 2, 2, 2, 2).permute(0, 1, 4, 2, 5, 3)  # of write_encoder, turned back
    forward = blocks.reshape(CHANNELS, 48)
    backward = torch.linalg.pinv(forward)
    mean = -(backward @ project.bias[:CHANNELS].detach().float())
    return Projection(mean, forward, backward, torch.tensor(float(autoencoder.config.scaling_factor)))


def reconstruction_loss(autoencoder: AutoencoderKL, projection: Projection, pixels: torch.Tensor) -> torch.Tensor:
    """L1 plus squared error of decoding slightly noisy latents of `(batch, 3, side, side)` pixels."""
    latents = projection.encode(pixels)
    latents = latents + 0.02 / projection.scale * torch.randn_like(latents)
    decoded = autoencoder.decode(latents).sample
    return functional.l1_loss(decoded, pixels) + functional.mse_loss(decoded, pixels)


@torch.no_grad()
def psnr(autoencoder: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Decibels of encode and decode for each picture, against the full range of 8-bit sRGB."""
    parts = pixels.to(autoencoder.device).split(16)
    decoded = torch.cat([autoencoder(part, sample_posterior=False).sample for part in parts]).cpu()
    error = (decoded.clamp(-1, 1) - pixels).square().mean((1, 2, 3)) / 4
    return -10 * error.log10()
