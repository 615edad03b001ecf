"""Recipes: a plan, a mask and a fill under one name, and the catalogue that requests choose from."""
