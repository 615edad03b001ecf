"""The arguments of the pipeline's call, which has the shape of diffusers' own."""
