"""Helpers that belong to no domain: JSON Schema, texts, prompt files, optional packages, progress."""
