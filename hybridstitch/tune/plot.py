"""The plot of a search: fidelity over speed, and where the large model runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybridstitch.base.extras import extra
from hybridstitch.plans import ExplicitShares
from hybridstitch.tune.points import Trial, front


def plot(found: Sequence[Trial], path: Path) -> None:
    """Write two charts as a PNG: a line for each guidance scale, and the dense steps of each schedule.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    with extra("bench"):
        import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for number, scale in enumerate(sorted({trial.guidance_scale for trial in found})):
        trials = front([trial for trial in found if trial.guidance_scale == scale and not trial.stitched])
        colour = f"C{number}"
        speeds = [trial.speed for trial in trials]
        left.plot(speeds, [trial.psnr_db for trial in trials], "o-", color=colour, label=f"guidance {scale:g}")
        for trial in trials:
            shares = trial.recipe.plan.shares if isinstance(trial.recipe.plan, ExplicitShares) else ()
            dense = [step for step, share in enumerate(shares) if share == 1]
            right.plot(dense, [trial.speed + 0.04 * number] * len(dense), ".", color=colour)
    left.set_xlabel("times fewer FLOPs than the large model at all steps")
    left.set_ylabel("PSNR to the large model's own picture, dB (calibration prompts)")
    left.grid(alpha=0.3)
    left.legend()
    right.set_xlabel("steps at which the large model runs")
    right.set_ylabel("times fewer FLOPs")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
