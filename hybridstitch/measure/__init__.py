"""Distances between pictures, and intervals and tests for figures."""
