"""What TorchServe loads for the baseline endpoint. It takes the one class of this file."""

from __future__ import annotations

from hybridstitch.serving.worker import plain, torchserve


class PlainSD3Handler(torchserve.TorchServeHandler):
    """The baseline endpoint."""

    service_type = plain.PlainService
