"""The examination of a machine before it serves, and of a server while it does."""

from hybridstitch.serving.doctor.examination import examine, read_tokens

__all__ = ["examine", "read_tokens"]
