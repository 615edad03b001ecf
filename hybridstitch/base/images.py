"""Encoded pictures, as bytes, base64 text and data URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hybridstitch.base.mark import PACKET, is_marked

NO_TEXTS: Mapping[str, str] = MappingProxyType({})
_XMP_OF_PNG = "XML:com.adobe.xmp"


def encode_image(image: Image.Image, kind: str, texts: Mapping[str, str] = NO_TEXTS, **options: Any) -> bytes:
    """Return the image as a file. A marked picture carries its mark in it, in every kind.

    Args:
        image: The picture. `hybridstitch.base.mark.mark` marks it.
        kind: `png`, `jpeg` or `webp`.
        texts: By key, the texts that a PNG carries. Other kinds have no place for them.
        options: Those of `Image.save`, such as `quality`.
    """
    if kind == "png":
        metadata = PngInfo()
        for key, text in texts.items():
            metadata.add_text(key, text)
        if is_marked(image):
            metadata.add_itxt(_XMP_OF_PNG, PACKET)
        options["pnginfo"] = metadata
    elif is_marked(image):
        options["xmp"] = PACKET.encode()
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def base64_text(content: bytes) -> str:
    """Return bytes in base64, as JSON carries them."""
    return base64.b64encode(content).decode()


def data_url(content: bytes, kind: str) -> str:
    """Return a `data:` URL of an encoded picture, which a page shows without loading a file."""
    return f"data:image/{kind};base64,{base64_text(content)}"
