"""A toy library of sprites: three shapes, whose colour is the style."""

from __future__ import annotations

from PIL import Image, ImageDraw

from training.scenes import Library
from training.vocabulary import STYLES

SHAPES = {"disc": "ellipse", "block": "rectangle", "wedge": "regular_polygon"}


def sprite(shape: str, colour: str) -> Image.Image:
    picture = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(picture)
    if shape == "regular_polygon":
        draw.regular_polygon((32, 32, 28), 3, fill=colour)
    else:
        getattr(draw, shape)((6, 6, 58, 58), fill=colour)
    return picture.convert("RGBa")


def make_library() -> Library:
    """All shapes in all styles."""
    paints = dict(zip(STYLES, ("#3355ff", "#10a030", "#d02020"), strict=True))
    sprites = {(name, style): sprite(shape, paints[style]) for name, shape in SHAPES.items() for style in STYLES}
    return Library(sprites, dict.fromkeys(SHAPES, 1.0), {"disc": ["circle"], "block": [], "wedge": []})
