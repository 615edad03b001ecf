"""A sheet of samples to look at: prompts that people try first, and two objects side by side."""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from training.vocabulary import caption, held_out

ALONE = (
    "red apple on blue",
    "banana on purple",
    "strawberry on white",
    "pizza on green",
    "hamburger on yellow",
    "dog face on blue",
    "cat face on green",
    "panda on pink",
    "fox on pink",
    "frog on yellow",
    "automobile on white",
    "bicycle on grey",
    "rocket on black",
    "airplane on orange",
    "guitar on purple",
    "soccer ball on purple",
    "key on black",
    "light bulb on green",
    "umbrella on blue",
    "alarm clock on red",
    "penguin on blue",
    "cactus on orange",
    "house on grey",
    "red heart on white",
)
PAIRS = (
    "dog face and pizza on blue",
    "rocket and banana on purple",
    "house and sunflower on grey",
    "flat strawberry and lemon on white",
    "flat frog and umbrella on pink",
    "noto cat face and birthday cake on green",
    "noto guitar and robot on orange",
    "crown and alarm clock on black",
)
STYLED = (
    "flat airplane on blue",
    "noto airplane on blue",
    "flat octopus on yellow",
    "noto octopus on yellow",
    "small rabbit face at the top left on green",
    "small flat key at the bottom right on pink",
    "ghost on purple to black",
    "noto sailboat on blue to white",
)
UNSEEN = tuple(caption(scene) for scene in held_out()[::30])
"""Every 30th of the held-out scenes: seven of one concept on a gradient, one of two concepts."""
SHEET_PROMPTS = ALONE + PAIRS + STYLED + UNSEEN
"""Chosen before any sample was seen."""
COLUMNS = 8
SIDE = 128
LINE = 13
LABEL = 2 * LINE + 2
"""Height of a label: two lines of at most 22 characters."""


def draw_sheet(drawn: list[np.ndarray], path: Path) -> None:
    """Rows of eight prompts: the label, the first model's pictures, the next one's below them.

    Args:
        drawn: for each model, its pictures of `SHEET_PROMPTS`, `(count, 128, 128, 3)` uint8.
    """
    rows = -(-len(SHEET_PROMPTS) // COLUMNS)
    height = LABEL + len(drawn) * SIDE
    sheet = Image.new("RGB", (COLUMNS * SIDE, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for line, pictures in enumerate(drawn):
        for index, picture in enumerate(pictures):
            left, top = index % COLUMNS * SIDE, index // COLUMNS * height
            sheet.paste(Image.fromarray(picture), (left, top + LABEL + line * SIDE))
            for number, words in enumerate(textwrap.wrap(SHEET_PROMPTS[index], 22)):
                draw.text((left + 2, top + 1 + number * LINE), words, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
