"""Recipes: a plan, a mask and a fill under one name, and the catalogue of all that requests may name."""
