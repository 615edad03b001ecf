"""The page of a bench: its plot, its table and pictures of every contender, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hybridstitch.base.images import data_url, encode_image
from hybridstitch.base.progress import counted
from hybridstitch.bench.equal_speed import Comparison
from hybridstitch.bench.folder import BenchFolder
from hybridstitch.bench.table import Row, decibels
from hybridstitch.html.document import render_page
from hybridstitch.measure.pixels import EQUAL_DB

SHOWN = 8
"""Largest number of prompts whose pictures are shown, with the first seed."""
THUMBNAIL = 96
"""Side of a picture on the page in pixels."""


def write_page(
    rows: Sequence[Row],
    prompts: list[str],
    seeds: list[int],
    folder: BenchFolder,
    machine: str,
    equal: Sequence[Comparison] = (),
) -> Path:
    """Write bench.html into the folder of a bench, which must have the plot, and return its path.

    Args:
        rows: Rows of the table.
        prompts: All prompts of the bench.
        seeds: All seeds of the bench.
        folder: The folder. A picture that is missing there is missing on the page.
        machine: Description of the machine.
        equal: Families at the same speed.
    """
    path = folder.path / "bench.html"
    shown = [index * len(prompts) // min(SHOWN, len(prompts)) for index in range(min(SHOWN, len(prompts)))]
    page = render_page(
        "bench.html",
        lead=_lead(rows, prompts, seeds, folder.settings),
        figures=_figures(rows, prompts, seeds),
        plot=data_url((folder.path / "pareto.png").read_bytes(), "png"),
        rows=rows,
        equal=equal,
        decibels=decibels,
        prompts=[prompts[index] for index in shown],
        pictures={
            row.title: [_thumbnail(folder.picture_path(row.contender, index, seeds[0])) for index in shown]
            for row in rows
        },
        settings={"machine": machine, **{name: value for name, value in folder.settings.items() if name != "texts"}},
    )
    path.write_text(page)
    return path


def _lead(rows: Sequence[Row], prompts: list[str], seeds: list[int], settings: Mapping[str, Any]) -> str:
    counts = (
        f"{counted(len(rows), 'contender')} on {counted(len(prompts), 'prompt')} with {counted(len(seeds), 'seed')}"
    )
    return (
        f"{counts} each, {counted(int(settings['steps']), 'step')} at guidance {settings['guidance_scale']:g}: how "
        "much cheaper than the large model each of them is, and how close its pictures are to the large model's own."
    )


def _figures(rows: Sequence[Row], prompts: list[str], seeds: list[int]) -> list[tuple[str, str, str]]:
    """Return the headline figures: the pictures, and the fastest and the closest contender that saves FLOPs."""
    saving = [row for row in rows if row.cost < 1]
    found = [("Pictures of each", str(len(prompts) * len(seeds)), counted(len(prompts), "prompt"))]
    if saving:
        fastest = max(saving, key=lambda row: row.speedup)
        nearest = max(saving, key=lambda row: row.whole.psnr_db.value)
        near = "identical" if nearest.whole.psnr_db.value >= EQUAL_DB else f"{nearest.whole.psnr_db.value:.1f} dB"
        found.append(("Fastest, measured", f"{fastest.speedup:.2f}\u00d7", fastest.title))
        found.append(("Nearest to the large model", near, nearest.title))
    return found


def _thumbnail(path: Path) -> str:
    """Return a small picture as a data URL, empty if there is no picture."""
    if not path.exists():
        return ""
    return data_url(encode_image(Image.open(path).resize((THUMBNAIL,) * 2), "webp", quality=80), "webp")
