"""The words of a prompt: what an explanation scores, and what it takes away."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

MAX_WORDS = 64
"""Every word costs forwards; no text encoder of SD3 but T5 reads more."""
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


@dataclass(frozen=True)
class Word:
    """A word of the prompt, its characters `start` to `end` (the first one behind it).

    score: its part in what is explained, see `explain`; below 0 it worked against it.
    """

    text: str
    start: int
    end: int
    score: float = 0.0


def words_of(prompt: str) -> list[Word]:
    """The words in their order: letters and digits, with hyphens and apostrophes inside. Punctuation is no word."""
    return [Word(found[0], found.start(), found.end()) for found in _WORD.finditer(prompt)]


def without(prompt: str, words: Sequence[Word], left_out: Collection[int]) -> str:
    """The prompt as somebody would have written it without the words of these numbers."""
    kept = prompt
    for number in sorted(left_out, reverse=True):
        kept = kept[: words[number].start] + kept[words[number].end :]
    return " ".join(kept.split())
