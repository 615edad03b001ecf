"""Explanations: which words selected the tokens of the large model, and where in the picture each word acts."""

from hybridstitch.base.words import MAX_WORDS, Word
from hybridstitch.explain.explain import METHODS, TARGETS, explain, explain_generation
from hybridstitch.explain.explanation import Explanation

__all__ = ["MAX_WORDS", "METHODS", "TARGETS", "Explanation", "Word", "explain", "explain_generation"]
