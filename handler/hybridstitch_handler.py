"""What TorchServe loads for the stitched endpoint. It takes the one class of this file."""

from __future__ import annotations

from hybridstitch.serving.worker import stitched, torchserve


class HybridStitchHandler(torchserve.TorchServeHandler):
    """The stitched endpoint."""

    service_type = stitched.StitchedService
