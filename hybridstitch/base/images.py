"""Encoded pictures, as bytes, base64 text and data URLs."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image


def encode_image(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the image as a file of a kind such as `png`, `jpeg` or `webp`. The options are those of `Image.save`."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def base64_text(content: bytes) -> str:
    """Return bytes in base64, as JSON carries them."""
    return base64.b64encode(content).decode()


def data_url(content: bytes, kind: str) -> str:
    """Return a `data:` URL of an encoded picture, which a page shows without loading a file."""
    return f"data:image/{kind};base64,{base64_text(content)}"
