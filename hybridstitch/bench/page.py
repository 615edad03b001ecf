"""One self-contained page of a bench: the plot, the table, and the pictures behind every point."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from hybridstitch.base.progress import counted
from hybridstitch.bench.folder import BenchFolder
from hybridstitch.bench.table import Row, decibels
from hybridstitch.html.document import definitions, document, figure, scroll, table, tiles
from hybridstitch.measure.pixels import EQUAL_DB

SHOWN = 8
"""Prompts whose pictures are shown, the first seed of each."""
THUMBNAIL = 96
STYLE = """
.plot.whole { border-radius: 8px; background: #fff; min-width: 40rem; width: 100%; }
.figures th:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 6.5rem; }
.pictures img { display: block; width: 96px; height: 96px; border-radius: 6px; background: var(--line); }
.pictures td { padding: .3rem; }
.pictures thead th { white-space: normal; min-width: 96px; text-align: left; vertical-align: bottom; padding: .3rem; }
.pictures th:first-child { position: sticky; left: 0; background: var(--card); white-space: normal;
  overflow-wrap: anywhere; min-width: 6.5rem; max-width: 9rem; padding-right: .5rem; }
"""


def write_page(rows: Sequence[Row], prompts: list[str], seeds: list[int], folder: BenchFolder, machine: str) -> Path:
    """Write bench.html from the pictures and the plot that lie in the bench's folder."""
    path = folder.path / "bench.html"
    body = _head(rows, prompts, seeds, folder.settings) + _tiles(rows, prompts, seeds)
    plot = base64.b64encode((folder.path / "pareto.png").read_bytes()).decode()
    image = f'<img class="plot whole" alt="PSNR over the saving in FLOPs" src="data:image/png;base64,{plot}">'
    body += f"<section><h2>Nearness over cost</h2>{scroll(image, True)}</section>"
    body += f"<section><h2>Contenders</h2>{_figures(rows)}</section>"
    body += f"<section><h2>Pictures</h2>{_pictures(rows, prompts, seeds[0], folder)}</section>"
    settings = {name: value for name, value in folder.settings.items() if name != "texts"}
    body += f"<section><h2>How this was measured</h2>{definitions({'machine': machine, **settings})}</section>"
    path.write_text(document("hybridstitch bench", body, more_style=STYLE))
    return path


def _head(rows: Sequence[Row], prompts: list[str], seeds: list[int], settings: Mapping[str, Any]) -> str:
    counts = (
        f"{counted(len(rows), 'contender')} on {counted(len(prompts), 'prompt')} with {counted(len(seeds), 'seed')}"
    )
    said = (
        f"{counts} each, {counted(int(settings['steps']), 'step')} at guidance {settings['guidance_scale']:g}: how "
        "much cheaper than the large model each of them is, and how close its pictures are to the large model's own."
    )
    lead = f'<p class="eyebrow">Bench</p><h1>Recipes side by side</h1><p class="lead">{escape(said)}</p>'
    return f'<header class="plain">{lead}</header>'


def _tiles(rows: Sequence[Row], prompts: list[str], seeds: list[int]) -> str:
    """The fastest, and the nearest of those that save anything."""
    saving = [row for row in rows if row.cost < 1]
    found = [("Pictures of each", str(len(prompts) * len(seeds)), counted(len(prompts), "prompt"))]
    if saving:
        fastest = max(saving, key=lambda row: row.speedup)
        nearest = max(saving, key=lambda row: row.whole.psnr_db.value)
        near = "identical" if nearest.whole.psnr_db.value >= EQUAL_DB else f"{nearest.whole.psnr_db.value:.1f} dB"
        found.append(("Fastest, measured", f"{fastest.speedup:.2f}\u00d7", escape(fastest.title)))
        found.append(("Nearest to the large model", near, escape(nearest.title)))
    return tiles(found)


def _figures(rows: Sequence[Row]) -> str:
    heads = ["contender", "by FLOPs", "measured", "PSNR, dB (95 %)", "SSIM", "perceptual"]
    cells = [
        [
            escape(row.title),
            f"{1 / row.cost:.2f}\u00d7",
            f"{row.speedup:.2f}\u00d7",
            decibels(row.whole.psnr_db),
            f"{row.whole.ssim.value:.3f}",
            figure(row.whole.perceptual.value if row.whole.perceptual else None, ".4f"),
        ]
        for row in rows
    ]
    return f'<div class="figures">{table(heads, cells)}</div>'


def _pictures(rows: Sequence[Row], prompts: list[str], seed: int, folder: BenchFolder) -> str:
    shown = [index * len(prompts) // min(SHOWN, len(prompts)) for index in range(min(SHOWN, len(prompts)))]
    cells = [
        [escape(row.title), *(_picture(folder.picture_path(row.contender, index, seed)) for index in shown)]
        for row in rows
    ]
    return f'<div class="pictures">{table(["", *(escape(prompts[index]) for index in shown)], cells)}</div>'


def _picture(path: Path) -> str:
    if not path.exists():
        return ""
    buffer = io.BytesIO()
    Image.open(path).resize((THUMBNAIL,) * 2).save(buffer, "WEBP", quality=80)
    return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
