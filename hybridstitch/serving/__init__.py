"""Everything that knows TorchServe or HTTP: archives, the request and its answer, the server and its client."""
