"""Comparing two endpoints: the same prompts and seeds through both, and an answer with its uncertainty."""
