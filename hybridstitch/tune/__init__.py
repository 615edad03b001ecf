"""The search for the recipes of a pair with the highest fidelity at each cost.

A candidate is one point of the search space, a baseline a recipe that takes part unchanged. A trial is either of them
with its measurements.
"""
