"""Whether B is faster than A, and whether its pictures are no worse than the margins allow."""
