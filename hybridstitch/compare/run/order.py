"""The order of the requests: both sides get the same load, and a slower minute of the machine affects both."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

SIDES = ("a", "b")
"""`a` is the endpoint in use, `b` the candidate."""

Cell = tuple[int, int]
"""Number of a prompt, and a seed: what one sample is generated from."""


@dataclass(frozen=True)
class Block:
    """Requests to one side, sent before the other side has its turn."""

    side: str
    cells: tuple[Cell, ...]


def ordered_cells(prompts: int, seeds: list[int], order_seed: int = 0) -> list[Cell]:
    """Return every prompt with every seed. Prompts are in random order; the seeds of a prompt follow each other."""
    numbers = list(range(prompts))
    random.Random(f"prompts {order_seed}").shuffle(numbers)
    return [(number, seed) for number in numbers for seed in seeds]


def ordered_blocks(
    prompts: int, seeds: list[int], size: int = 1, order_seed: int = 0, done: Collection[Cell] = ()
) -> list[Block]:
    """Return all blocks in their order: A B B A or B A A B, chosen at random for each four blocks.

    With blocks of one cell and two seeds, four blocks are one prompt.

    Args:
        prompts: Number of prompts.
        seeds: The seeds of each prompt.
        size: Cells of a block, at least 1.
        order_seed: Seed of the order.
        done: Cells that need no request any more. They are left out, and the order of the others does not change.
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
