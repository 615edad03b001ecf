"""The SD3 transformers, their guidance and cost, the text encoders, and the files of a pair."""
