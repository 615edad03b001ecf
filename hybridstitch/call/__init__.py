"""The arguments of the pipeline's call, which has the signature of diffusers' own."""
