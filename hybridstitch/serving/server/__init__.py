"""The model store and the TorchServe process."""
