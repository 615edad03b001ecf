"""One self-contained page of a bench: the plot, the table, and the pictures behind every point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hybridstitch.base.images import data_url, encode_image
from hybridstitch.base.progress import counted
from hybridstitch.bench.folder import BenchFolder
from hybridstitch.bench.table import Row, decibels
from hybridstitch.html.document import render_page
from hybridstitch.measure.pixels import EQUAL_DB

SHOWN = 8
"""Prompts whose pictures are shown, the first seed of each."""
THUMBNAIL = 96


def write_page(rows: Sequence[Row], prompts: list[str], seeds: list[int], folder: BenchFolder, machine: str) -> Path:
    """Write bench.html from the pictures and the plot that lie in the bench's folder."""
    path = folder.path / "bench.html"
    shown = [index * len(prompts) // min(SHOWN, len(prompts)) for index in range(min(SHOWN, len(prompts)))]
    page = render_page(
        "bench.html",
        lead=_lead(rows, prompts, seeds, folder.settings),
        figures=_figures(rows, prompts, seeds),
        plot=data_url((folder.path / "pareto.png").read_bytes(), "png"),
        rows=rows,
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
    """The fastest, and the nearest of those that save anything."""
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
    """A small picture as a data URL; empty where there is no picture."""
    if not path.exists():
        return ""
    return data_url(encode_image(Image.open(path).resize((THUMBNAIL,) * 2), "webp", quality=80), "webp")
