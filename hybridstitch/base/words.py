"""The words of a prompt, which an explanation scores and removes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hybridstitch.errors import Problem

MAX_WORDS = 64
"""Most words of a prompt to explain: each costs forwards, and of the text encoders only T5 reads more."""
# Words are found in a string of classes, one letter a character, see `_class_of`.
_WORD = re.compile(
    r"(?P<weight>(?<=[wmhe]):d+(?:\.d+)?(?=\)))"  # as in "(red:1.3)"
    r"|hm*"
    r"|ff"
    r"|em*(?:zem*)*"
    r"|(?:[wd][mz]*)+(?:(?:j|(?<=d)\.(?=d))(?:[wd][mz]*)+)*"
)
_HAN = ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_SIGNS = {"'": "j", "\u2019": "j", "-": "j", ".": ".", ",": ".", ":": ":", ")": ")", "\u200c": "z", "\u200d": "z"}


@dataclass(frozen=True)
class Word:
    """A word of the prompt.

    Attributes:
        text: the word.
        start: its first character in the prompt.
        end: the character after its last one.
        score: its contribution, see `explain`; a negative one works against the target.
        read: whether a text encoder reads the whole word. Otherwise the score is 0.
    """

    text: str
    start: int
    end: int
    score: float = 0.0
    read: bool = True


def words_of(prompt: str) -> list[Word]:
    """The words of a prompt in order.

    A word is letters and digits with inner hyphens and apostrophes, a number with decimals, an emoji with its
    modifiers, or one Chinese character. Punctuation is no word, nor is the weight in "(red:1.3)".
    """
    classes = "".join(map(_class_of, prompt))
    return [
        Word(prompt[found.start() : found.end()], found.start(), found.end())
        for found in _WORD.finditer(classes)
        if found["weight"] is None
    ]


def word_problem(prompt: str) -> Problem | None:
    """What is wrong with the number of words of a prompt to explain."""
    words = len(words_of(prompt))
    return None if 1 <= words <= MAX_WORDS else Problem("prompt", f"1 to {MAX_WORDS} words", f"{words} words")


def without(prompt: str, words: Sequence[Word], left_out: Collection[int]) -> str:
    """The prompt without the words at these indices, with single spaces."""
    kept = prompt
    for number in sorted(left_out, reverse=True):
        kept = kept[: words[number].start] + kept[words[number].end :]
    return " ".join(kept.split())


def _class_of(character: str) -> str:
    """d digit, w other letter, h Chinese, m mark or modifier, e emoji, f half a flag, z joiner, j hyphen, or a sign."""
    if character in _SIGNS:
        return _SIGNS[character]
    code, category = ord(character), unicodedata.category(character)
    if any(low <= code <= high for low, high in _HAN):
        return "h"
    if 0x1F1E6 <= code <= 0x1F1FF:
        return "f"
    if category[0] == "M" or 0x1F3FB <= code <= 0x1F3FF or 0xE0020 <= code <= 0xE007F:
        return "m"
    if category == "Nd":
        return "d"
    if category[0] in "LN" or category == "Pc":
        return "w"
    return "e" if category == "So" else " "
