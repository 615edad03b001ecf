"""The examination of a machine before it serves, and of a server while it does."""

from hybridstitch.serving.doctor.examination import examine

__all__ = ["examine"]
