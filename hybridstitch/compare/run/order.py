"""The order of the requests: both sides see the same load, and drift of the machine hits both alike."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

SIDES = ("a", "b")
"""a: what is in use, b: the candidate."""

Cell = tuple[int, int]
"""Number of a prompt, and a seed."""


@dataclass(frozen=True)
class Block:
    """Requests to one side, sent before the other side has its turn."""

    side: str
    cells: tuple[Cell, ...]


def ordered_cells(prompts: int, seeds: list[int], order_seed: int = 0) -> list[Cell]:
    """Every prompt with every seed; prompts in random order, seeds of one prompt after another."""
    numbers = list(range(prompts))
    random.Random(f"prompts {order_seed}").shuffle(numbers)
    return [(number, seed) for number in numbers for seed in seeds]


def ordered_blocks(
    prompts: int, seeds: list[int], size: int = 1, order_seed: int = 0, done: Collection[Cell] = ()
) -> list[Block]:
    """All blocks in their order: A B B A or B A A B, at random for each such four.

    size: cells of a block. With blocks of one cell and two seeds, the four are one prompt. done: cells that need no
    request any more; the blocks of the others stay what they were.
    """
    cells = ordered_cells(prompts, seeds, order_seed)
    blocks = []
    for number, start in enumerate(range(0, len(cells), size)):
        swapped = random.Random(f"sides {order_seed} {number // 2}").random() < 0.5
        first = (number % 2 == 1) != swapped
        todo = tuple(cell for cell in cells[start : start + size] if cell not in done)
        if todo:
            blocks += [Block(SIDES[side], todo) for side in (first, not first)]
    return blocks
