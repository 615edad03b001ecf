"""The requests of a comparison: their order, the run, and the folder that keeps the answers."""
