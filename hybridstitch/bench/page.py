"""One self-contained page of a bench: the plot, the table, and the pictures behind every point."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

from hybridstitch.bench.folder import BenchFolder
from hybridstitch.bench.table import Row

SHOWN = 8
"""Prompts whose pictures are shown, the first seed of each."""
THUMBNAIL = 96

STYLE = """
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
img { vertical-align: middle; } td img { width: 96px; height: 96px; image-rendering: auto; }
.scroll { overflow-x: auto; } figure { margin: 0; } .plot { max-width: 100%; background: #fff; }
"""


def write_page(rows: list[Row], prompts: list[str], seed: int, folder: BenchFolder, said: str) -> Path:
    """Write bench.html from the pictures and the plot that lie in the bench's folder."""
    shown = [index * len(prompts) // min(SHOWN, len(prompts)) for index in range(min(SHOWN, len(prompts)))]
    heads = "".join(f"<th>{html.escape(prompts[index])}</th>" for index in shown)
    lines = [
        "<tr><td>{}</td><td>{:.2f}x</td><td>{:.2f}x</td><td>{:.1f}</td>{}</tr>".format(
            html.escape(row.title),
            1 / row.cost,
            row.speedup,
            row.whole.psnr_db.value,
            "".join(f"<td>{_picture(folder.picture_path(row.contender, index, seed))}</td>" for index in shown),
        )
        for row in rows
    ]
    plot = base64.b64encode((folder.path / "pareto.png").read_bytes()).decode()
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>hybridstitch bench</title>
<style>{STYLE}</style><body><h1>Recipes side by side</h1><p>{html.escape(said)}</p>
<figure><img class="plot" alt="PSNR over speed-up" src="data:image/png;base64,{plot}"></figure>
<div class="scroll"><table><tr><th>contender</th><th>by FLOPs</th><th>measured</th><th>PSNR dB</th>{heads}</tr>
{"".join(lines)}</table></div></body></html>"""
    path = folder.path / "bench.html"
    path.write_text(page)
    return path


def _picture(path: Path) -> str:
    if not path.exists():
        return ""
    buffer = io.BytesIO()
    Image.open(path).resize((THUMBNAIL,) * 2).save(buffer, "WEBP", quality=80)
    return f'<img alt="" src="data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
