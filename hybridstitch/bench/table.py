"""The table of a bench: a row for each contender, as JSON and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hybridstitch.base.markdown import markdown_table
from hybridstitch.bench.folder import Fidelity, Result
from hybridstitch.measure.host import machine
from hybridstitch.measure.intervals import Interval, by_group, without_nan
from hybridstitch.measure.pixels import EQUAL_DB

Quality = Mapping[str, Interval]


@dataclass(frozen=True)
class Figures:
    """Means of `Fidelity` or of its differences over pictures, with 95 % bootstrap intervals by prompt."""

    psnr_db: Interval
    ssim: Interval
    perceptual: Interval | None


@dataclass(frozen=True)
class Row:
    """Measurements of one contender.

    Attributes:
        contender: Its name.
        pictures: Number of its pictures.
        cost: Mean FLOPs of the transformers, relative to the reference.
        speedup: Denoising time of the reference / own denoising time, median over prompts and seeds.
        speedup_quartiles: First and third quartile of the same ratio.
        large_token_share: Mean share of the token-steps that the large model rendered, 0 to 1.
        whole: Fidelity, see `Result`.
        inside: Fidelity where the large model rendered tokens more often, see `Result`.
        outside: Fidelity elsewhere, see `Result`.
        difference: Fidelity minus that of another contender on the same prompts and seeds, None without one.
            An interval without 0 separates the two.
        quality: Measures of the pictures alone, by name. Empty if they were not judged.
        origin: Method that a tuned recipe is a setting of.
    """

    contender: str
    pictures: int
    cost: float
    speedup: float
    speedup_quartiles: tuple[float, float]
    large_token_share: float
    whole: Figures
    inside: Figures | None
    outside: Figures | None
    difference: Figures | None
    quality: Quality = field(default_factory=dict)
    origin: str | None = None

    @property
    def title(self) -> str:
        """Name and origin, as people read it."""
        return f"{self.contender} ({self.origin})" if self.origin else self.contender


def rows(
    results: Sequence[Result],
    against: str | None = None,
    quality: Mapping[str, Quality] | None = None,
    origins: Mapping[str, str | None] | None = None,
) -> list[Row]:
    """Return a row for each contender, the cheapest last.

    Args:
        results: Results of all pictures.
        against: Contender that `Row.difference` compares with.
        quality: `Row.quality` by contender.
        origins: `Row.origin` by contender.
    """
    names = dict.fromkeys(each.contender for each in results)
    by_name = {name: [each for each in results if each.contender == name] for name in names}
    baseline = by_name[against] if against else None
    found = [
        replace(_row(by_name[name], baseline, (quality or {}).get(name, {})), origin=(origins or {}).get(name))
        for name in names
    ]
    return sorted(found, key=lambda row: -row.cost)


def _row(results: list[Result], baseline: list[Result] | None, quality: Quality) -> Row:
    faster = [each.reference_ms / each.ms for each in results]
    quartiles = statistics.quantiles(faster, n=4) if len(faster) > 1 else faster * 3
    return Row(
        contender=results[0].contender,
        pictures=len(results),
        cost=float(np.mean([each.cost for each in results])),
        speedup=quartiles[1],
        speedup_quartiles=(quartiles[0], quartiles[2]),
        large_token_share=float(np.mean([each.large_token_share for each in results])),
        whole=_figures(results, "whole"),
        inside=_figures(results, "inside") if any(each.inside for each in results) else None,
        outside=_figures(results, "outside") if any(each.outside for each in results) else None,
        difference=_figures(results, "whole", baseline) if baseline else None,
        quality=quality,
    )


def _figures(results: list[Result], part: str, baseline: list[Result] | None = None) -> Figures:
    """Return the figures of a part, `whole`, `inside` or `outside`; with a baseline, the differences from it."""

    def interval(name: str) -> Interval:
        values = by_prompt(results, part, name)
        return by_group(values - by_prompt(baseline, part, name) if baseline else values)

    measured = any(getattr(each, part) and getattr(each, part).perceptual is not None for each in results)
    return Figures(interval("psnr_db"), interval("ssim"), interval("perceptual") if measured else None)


def by_prompt(results: list[Result], part: str, name: str) -> np.ndarray:
    """Return a measure as `(prompts, seeds)`, NaN for pictures without the part."""
    prompts: dict[int, dict[int, float]] = {}
    for each in results:
        fidelity: Fidelity | None = getattr(each, part)
        value = None if fidelity is None else getattr(fidelity, name)
        prompts.setdefault(each.prompt, {})[each.seed] = float("nan") if value is None else value
    return np.array([[values[seed] for seed in sorted(values)] for _, values in sorted(prompts.items())])


def markdown(found: list[Row]) -> str:
    """Return the rows as a table."""
    judged = list(next((row.quality for row in found if row.quality), {}))
    heads = ["contender", "by FLOPs", "measured (quartiles)", "PSNR dB (95 %)", "SSIM (95 %)", "perceptual (95 %)"]
    heads += ["in / out of mask, dB", "difference, dB (95 %)", "difference, perceptual (95 %)", *judged]
    lines = []
    for row in found:
        low, high = row.speedup_quartiles
        cells = [row.title, f"{1 / row.cost:.2f}x", f"{row.speedup:.2f}x ({low:.2f} to {high:.2f})"]
        cells += [decibels(row.whole.psnr_db), f"{row.whole.ssim:.3f}", _optional(row.whole.perceptual, ".4f")]
        within = [part.psnr_db.value for part in (row.inside, row.outside) if part]
        cells.append(" / ".join("identical" if each >= EQUAL_DB else f"{each:.1f}" for each in within))
        cells += (
            [f"{row.difference.psnr_db:.2f}", _optional(row.difference.perceptual, ".4f")]
            if row.difference
            else ["", ""]
        )
        cells += [_optional(row.quality.get(name), ".3f") for name in judged]
        lines.append(cells)
    return markdown_table(heads, lines)


def decibels(interval: Interval) -> str:
    """Return a mean PSNR with its interval, or `identical` for the value that equal pictures have."""
    return "identical" if interval.value >= EQUAL_DB else f"{interval:.1f}"


def _optional(interval: Interval | None, spec: str) -> str:
    return "" if interval is None else f"{interval:{spec}}"


def as_json(
    found: list[Row], settings: dict[str, Any], contenders: Mapping[str, Any], equal: Sequence[Any] = ()
) -> dict[str, Any]:
    """Return the content of bench.json, with the keys `machine`, `settings`, `contenders`, `rows` and `comparisons`.

    Args:
        found: The rows.
        settings: Of the bench.
        contenders: Their descriptions, by name.
        equal: Comparisons of families, see `equal_speed`.
    """
    return {
        "machine": machine(),
        "settings": settings,
        "contenders": contenders,
        "rows": without_nan([asdict(row) for row in found]),
        "comparisons": [asdict(each) for each in equal],
    }
