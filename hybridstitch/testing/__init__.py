"""Conformance tests for strategies, built-in ones and yours."""

from hybridstitch.testing.conformance import FillConformance, MaskConformance, PlanConformance

__all__ = ["FillConformance", "MaskConformance", "PlanConformance"]
