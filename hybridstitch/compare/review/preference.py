"""What people preferred: judgements as lines in the comparison's folder, and their counts and test."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridstitch.base.journal import append_entries, read_entries
from hybridstitch.compare.measured import MeasuredSample
from hybridstitch.compare.run.order import SIDES, Cell
from hybridstitch.measure.statistics import binomial, wilson

JUDGEMENTS = "judgements.jsonl"
CHOICES = ("left", "right", "tie")


def left_side(cell: Cell, order_seed: int = 0) -> str:
    """Return the side whose picture is shown on the left: random for each sample, and the same each time."""
    return random.Random(f"left {order_seed} {cell}").choice(SIDES)


def order_of_samples(cells: Sequence[Cell], order_seed: int = 0) -> list[Cell]:
    """Return the cells in the order in which they are shown."""
    shuffled = sorted(cells)
    random.Random(f"rate {order_seed}").shuffle(shuffled)
    return shuffled


def judgements(folder: Path) -> dict[Cell, str]:
    """Return `a`, `b` or `tie` for each judged sample; the last judgement counts."""
    return {(each["prompt"], each["seed"]): each["preferred"] for each in read_entries(folder / JUDGEMENTS)}


def keep(folder: Path, cell: Cell, choice: str, when: float, order_seed: int = 0) -> None:
    """Append a judgement, one of `CHOICES`, to the file of judgements."""
    left = left_side(cell, order_seed)
    preferred = {"left": left, "right": "b" if left == "a" else "a", "tie": "tie"}[choice]
    line = {"prompt": cell[0], "seed": cell[1], "left": left, "choice": choice, "preferred": preferred, "when": when}
    append_entries(folder / JUDGEMENTS, line)


def preference(folder: Path, samples: Sequence[MeasuredSample]) -> Mapping[str, Any] | None:
    """Return the counts, B's share of the judgements without ties, and the exact p of no preference.

    The share has Wilson's interval. Identical pictures are never shown, so they do not count as ties. None if nothing
    was judged.
    """
    known = {(sample.prompt, sample.seed) for sample in samples}
    judged = [preferred for cell, preferred in judgements(folder).items() if cell in known]
    if not judged:
        return None
    counts = {name: judged.count(name) for name in ("a", "b", "tie")}
    clear = counts["a"] + counts["b"]
    share = wilson(counts["b"], clear)
    shown = {"value": share.value, "low": share.low, "high": share.high}
    return {**counts, "judged": len(judged), "share_b": shown, "p": binomial(counts["b"], clear)}
