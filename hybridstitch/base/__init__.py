"""Helpers without a domain of their own: JSON Schema, texts, prompt files, optional packages, progress."""
