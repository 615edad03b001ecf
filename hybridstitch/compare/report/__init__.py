"""The report of a comparison: JSON, CSV and a page."""
