"""The search for the recipes of a pair with the highest fidelity at each cost.

A schedule is the list of steps at which the large model runs. Fill `fitted` predicts the steps between. A trial runs a
schedule once on a few calibration prompts, which also fits its weights.
"""
