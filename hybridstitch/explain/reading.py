"""The part of a prompt that each text encoder reads: its first tokens, which may not hold all words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Self

from hybridstitch.base.words import Word, without
from hybridstitch.model.prompts import ENCODERS, Encoding
from hybridstitch.pipeline import HybridStitchPipeline


@dataclass(frozen=True)
class Readings:
    """A prompt as the three text encoders read it.

    Each text ends with the last word that its encoder reads whole, so a word that is deleted moves no other word
    into the encoder's window.

    Attributes:
        texts: One for each encoder.
        words: Those that at least one encoder reads.
    """

    texts: tuple[str, ...]
    words: tuple[Word, ...]

    @classmethod
    def of(cls, pipeline: HybridStitchPipeline, prompt: str, words: Sequence[Word], how: Encoding) -> Self:
        """Cut a prompt where the window of each tokenizer ends."""
        prompts = pipeline.prompts
        windows = (prompts.clip_length, prompts.clip_length, prompts.length(how))
        ends = []
        for (tokenizer, encoder), window in zip(ENCODERS, windows, strict=True):
            present = getattr(pipeline, encoder) is not None
            ends.append(_end(getattr(pipeline, tokenizer), prompt, window, words) if present else 0)
        texts = tuple(prompt[:end] for end in ends)
        return cls(texts, tuple(word for word in words if word.end <= max(ends)))

    def without(self, left_out: Collection[int]) -> tuple[str, ...]:
        """Return the texts without the words of these numbers."""
        return tuple(
            without(text, self.words, [number for number in left_out if self.words[number].end <= len(text)])
            for text in self.texts
        )

    def marked(self, words: Sequence[Word], scores: Sequence[float]) -> tuple[Word, ...]:
        """Return all words of the prompt, with the scores of those that are read."""
        found = {word.start: score for word, score in zip(self.words, scores, strict=True)}
        return tuple(replace(word, score=found.get(word.start, 0.0), read=word.start in found) for word in words)


def _end(tokenizer: object, prompt: str, window: int, words: Sequence[Word]) -> int:
    """Return the end of the text that fits into a window, or of all of it if the tokenizer reports no characters."""
    if not tokenizer.is_fast:  # type: ignore[attr-defined]
        return len(prompt)
    tokens = tokenizer(prompt, truncation=True, max_length=window, return_offsets_mapping=True)  # type: ignore[operator]
    whole = len(tokenizer(prompt, verbose=False).input_ids)  # type: ignore[operator]
    if whole <= window:
        return len(prompt)
    last = max(end for _, end in tokens["offset_mapping"])
    fitting = [word.end for word in words if word.end <= last]
    # A first word longer than the window is read in part: no other word can move into its place.
    return max(fitting) if fitting else last if not words else max(last, words[0].end)
