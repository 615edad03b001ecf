"""What the numbers of an explanation say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SUBJECTS = {
    "mask": "why the large model got these tokens",
    "region": "what the large model drew in this region",
    "image": "what the large model drew",
}


def summary(answer: Mapping[str, Any]) -> str:
    """Which words count the most."""
    words = sorted(answer["words"], key=lambda word: -abs(word["score"]))
    subject = SUBJECTS[answer["target"]]
    if not words or not words[0]["score"]:
        return f"No word of the prompt says {subject}."
    strongest = f"“{words[0]['text']}” says the most about {subject}"
    return f"{strongest}, then “{words[1]['text']}”." if len(words) > 1 else f"{strongest}."


def meaning(answer: Mapping[str, Any]) -> str:
    """What a score is."""
    return f"A score says how much the answer changes without the word. Without means: {answer['baseline']}."
