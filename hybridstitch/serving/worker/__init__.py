"""What runs inside a TorchServe worker."""
