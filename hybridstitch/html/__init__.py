"""Pages that need nothing else: the frame, plots, and the page of an explanation."""
