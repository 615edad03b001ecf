"""The page, the plot and the table of a bench, from results that need no generation."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from hybridstitch.bench.equal_speed import Comparison
from hybridstitch.bench.folder import BenchFolder, Fidelity, Result
from hybridstitch.bench.page import write_page
from hybridstitch.bench.plot import chart, plot
from hybridstitch.bench.table import Row, markdown, rows
from hybridstitch.measure.intervals import Interval
from tests.support.html_page import Page
from tests.support.marks import SOURCE, content_of, mark_of

NAMES = [
    "large",
    "small",
    "t-stitch",
    "<b>mine</b>",
    "ras-1.6",
    "ras-2.1",
    "track-1.6",
    "mdd-1.6",
    "mdd-2.1",
    "regione",
]
NAMES += [
    "token-merge",
    "speed=1.5",
    "speed=2",
    "speed=3",
    "adaptive-switch~2",
    "periodic@14",
    "a-long-name@20/dpmsolver",
]
NAMES += ["large~1.5/even", "large@10/even", "large@9"]
NAMES += [f"cache-dit:threshold={value},warmup=2,calibrator=taylorseer" for value in (0.1, 0.2)]
FAMILIES = {
    "speed dial": ["speed=1.5", "speed=2", "speed=3"],
    "large, fewer steps (even)": ["large~1.5/even", "large@10/even"],
    "cache-dit, warmup=2, taylorseer": NAMES[-2:],
}
"""Contenders that differ in their speed alone."""
SETTINGS = {"texts": ["one", "two"], "steps": 28, "guidance_scale": 4.5, "seeds": [0, 1], "device": "cpu"}


@pytest.fixture(scope="module")
def found() -> list[Row]:
    """Contenders that lie close together, and the large model, whose pictures are its own."""
    random = np.random.default_rng(0)
    results = []
    for name in NAMES:
        cost = 1.0 if name == "large" else 0.4 + 0.1 * random.random()
        for prompt in (0, 1):
            value = 60.0 if name == "large" else 25 + 3 * random.random()
            near = Fidelity(value, 0.9, None)
            results.append(Result(prompt, 0, name, cost, 1000 * cost, 1000.0, 0.5, near, near, None))
    return rows(results)


def test_the_page_shows_what_was_compared_and_loads_nothing(found: list[Row], tmp_path: Path):
    folder = BenchFolder(tmp_path, SETTINGS, {name: {} for name in NAMES})
    for name in NAMES:
        folder.save_picture(name, 0, 0, np.zeros((8, 8, 3), np.uint8))
    plot(found, tmp_path / "pareto.png")
    equal = Comparison(2, "measured", ("speed=1.5", "speed=3"), ("ras-1.6",), Interval(1.25, 1, 1.5), None)
    text = write_page(found, ["one", "<i>two</i>"], [0, 1], folder, "a machine", [equal]).read_text()
    assert "1.25 (1.00 to 1.50)" in text
    page = Page(text)
    head = text[text.index("<header") : text.index("</header>")]
    assert f"{len(NAMES)} contenders on 2 prompts with 2 seeds each, 28 steps at guidance 4.5" in head
    assert "{" not in head
    assert 'class="tiles"' in text
    assert "prefers-color-scheme: dark" in text
    assert "Content-Security-Policy" in text
    assert text.count('class="scroll"') == 4
    assert text.count("Scroll sideways") == 3  # the pictures of two prompts fit a phone
    assert "identical" in page.words
    assert "60.0" not in page.words
    assert "<b>mine" not in text
    assert "<i>two" not in text
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert sources
    assert all(value.startswith("data:image/") for value in sources)
    thumbnail = next(value for value in sources if value.startswith("data:image/webp"))
    saved = folder.picture_path(NAMES[0], 0, 0).read_bytes()
    assert [mark_of(each)[0] for each in (content_of(thumbnail), saved)] == [SOURCE, SOURCE]


def test_the_table_names_equal_pictures_identical(found: list[Row]):
    text = markdown(found)
    line = next(each for each in text.splitlines() if each.startswith("| large "))
    assert "| identical |" in line
    assert not re.search(r"60\.0", text)


def test_names_in_the_plot_cover_nothing_and_stay_in_the_frame(found: list[Row]):
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    figure = chart(found)
    axes = figure.axes[0]
    figure.canvas.draw()
    frame = axes.get_window_extent()
    boxes = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
    assert set(boxes) == set(NAMES) - {"large"} - {name for names in FAMILIES.values() for name in names}
    assert not [names for names in combinations(boxes, 2) if boxes[names[0]].overlaps(boxes[names[1]])]
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes.values())
    assert all(frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes.values())
    legend = axes.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert sorted(words) == sorted([*FAMILIES, "filled: best for its cost", "others"])
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    by_name = {row.contender: row for row in found}
    for family, names in FAMILIES.items():
        members = sorted((by_name[name] for name in names), key=lambda row: -row.cost)
        assert list(lines[family].get_xdata()) == pytest.approx([1 / row.cost for row in members])
    for row in found:
        x, y = axes.transData.transform((1 / row.cost, row.whole.psnr_db.value))
        assert row.contender == "large" or not any(box.contains(x, y) for box in boxes.values())
    plt.close(figure)
