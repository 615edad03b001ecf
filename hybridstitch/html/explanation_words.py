"""What the numbers of an explanation say, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SUBJECTS = {
    "mask": "the choice of the large model's tokens",
    "region": "what the large model predicts in the region",
    "image": "what the large model predicts",
}
EFFECTS = {
    "mask": "how far the mask puts the chosen tokens above the others",
    "region": "what the words do to the large model's prediction in the region",
    "image": "what the words do to the large model's prediction",
}
METHODS = {
    "ablation": "A score is the part of the effect that is lost when the word is deleted: 1 is all of it",
    "integrated_gradients": "The effect is divided among the words: "
    "the scores add up to the part of it that is lost without all of them, 1 is all of it",
}
HEATS = {"mask": "its score in the mask", "region": "its prediction", "image": "its prediction"}


def summary(answer: Mapping[str, Any]) -> str:
    """Which words count the most."""
    first, *others = sorted(answer["words"], key=lambda word: -abs(word["score"]))
    side = "for" if first["score"] >= 0 else "against"
    then = f", then “{others[0]['text']}”" if others else ""
    return f"“{first['text']}” does the most {side} {SUBJECTS[answer['target']]}{then}."


def meaning(answer: Mapping[str, Any]) -> str:
    """What a score is."""
    effect = EFFECTS[answer["target"]]
    return f"{METHODS[answer['method']]}; below 0 a word works against it. The effect is {effect}."


def heat_meaning(answer: Mapping[str, Any]) -> str:
    """What a heat map shows."""
    return (
        f"Heat is how far a token moves, by {HEATS[answer['target']]}, when the word is deleted. "
        "All maps have one scale: bright yellow is the token that a single word moves the most."
    )
