"""Relative distance of the two models at each step, the parameter of plan `routed` (TRACK, 2026)."""

from __future__ import annotations

import torch

from hybridstitch.tune.trajectories import Trajectories


def disagreement(trajectories: Trajectories) -> tuple[float, ...]:
    """Return |large velocity - small velocity| / |large velocity| at each step, the mean over the prompts.

    Both models see the states of the large model's own trajectory. This costs the small model at every step.
    """
    found = []
    for step, large in enumerate(trajectories.velocities):
        large, small = large.float(), trajectories.small_velocity(step).float()
        distance = torch.linalg.vector_norm((large - small).flatten(1), dim=1)
        found.append(float((distance / torch.linalg.vector_norm(large.flatten(1), dim=1)).mean()))
    return tuple(round(each, 4) for each in found)
