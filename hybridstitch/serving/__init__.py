"""TorchServe: the worker inside it, its client, the server process, and the doctor."""
