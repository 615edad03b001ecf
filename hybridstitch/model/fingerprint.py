"""A short identifier of the weights of a pair."""

from __future__ import annotations

import hashlib

from hybridstitch.model.parts import Parts


def fingerprint(pair: Parts) -> str:
    """16 hexadecimal digits: a hash of the first 64 numbers of every parameter, rounded to bfloat16.

    It differs between pairs, and is the same for every dtype of a pair.
    """
    digest = hashlib.sha256()
    for model in (pair.large, pair.small, pair.components["vae"], pair.components["text_encoder"]):
        for parameter in model.parameters():
            digest.update(parameter.detach().flatten()[:64].bfloat16().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
