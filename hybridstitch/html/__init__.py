"""Pages without external files: the frame, plots, and the page of an explanation."""
