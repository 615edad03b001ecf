"""Measurements: how fast recipes are, and how close their pictures stay to the large model's."""
