from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from hybridstitch.plans.base import Plan
from hybridstitch.strategy import Range
from hybridstitch.trajectory import Trajectory


@dataclass(frozen=True)
class Sea(Plan):
    """A dense step whenever the picture in the latents has changed far enough (SeaCache, arXiv 2602.18993).

    The change is the relative L1 distance between the filtered latents of consecutive steps, summed since the last
    dense step. The filter keeps the frequencies in which the picture stands out from the noise. The plan needs no
    calibration and no forward.

    Args:
        threshold: change from which a dense step follows, 0 to 10, default 0.3. A higher one takes fewer dense steps,
            which is faster and further from the large model's picture.
        start: fraction of the schedule that is dense at the beginning, 0 to 1 and at least one step, default 0.1. More
            is slower, and closer to the large model's layout.
    """

    type = "sea"
    masked = False
    adaptive = True

    threshold: Annotated[float, Range(0, 10)] = 0.3
    start: Annotated[float, Range(0, 1)] = 0.1

    def large_share(self, trajectory: Trajectory) -> float:
        now = trajectory.now
        picture = wiener(now.latents, now.sigma)
        changed, before = trajectory.notes.get(self, (0.0, picture))
        changed += float((picture - before).abs().mean() / before.abs().mean())
        dense = now.index < max(1, round(self.start * trajectory.steps)) or changed >= self.threshold
        trajectory.notes[self] = (0.0 if dense else changed, picture)
        return 1.0 if dense else 0.0


def wiener(latents: Tensor, sigma: float) -> Tensor:
    """The latents, float32, with each frequency weighted as a Wiener filter for pictures in noise would.

    Natural pictures have a power of 1 / frequency². The weights have a mean of 1 at every noise level.

    Args:
        latents: `(batch, channels, height, width)`, the picture times 1 - sigma plus noise times sigma.
        sigma: noise level, 0 to 1.
    """
    rows, columns = (torch.fft.fftfreq(side, device=latents.device) for side in latents.shape[-2:])
    power = rows.square().unsqueeze(1) + columns.square()  # of the noise, relative to that of pictures
    signal = max(1 - sigma, 1e-3)  # the first step is noise alone
    gain = signal / (signal**2 + sigma**2 * power)
    return torch.fft.ifft2(torch.fft.fft2(latents.float()) * (gain / gain.mean())).real
