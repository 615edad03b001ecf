"""How near pictures are to each other, and intervals and tests for such figures."""
