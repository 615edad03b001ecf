"""The endpoints on Ray Serve: the same requests and answers as on TorchServe."""
