"""Helpers without a domain of their own: texts, prompts in files, optional packages, progress."""
