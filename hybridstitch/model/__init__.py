"""The SD3 transformers, their guidance and FLOPs, the text encoders, and the files of a pair."""
