"""The picture sizes that a pair can generate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hybridstitch.base.schema import Schema, integer, mismatch
from hybridstitch.errors import Problem

if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline


@dataclass(frozen=True)
class SizeLimits:
    """Picture sizes that a pair can generate, in pixels.

    Attributes:
        multiple_of: width and height are multiples of it.
        minimum: smallest side.
        maximum: largest side.
        default: width and height if a request names none.
    """

    multiple_of: int
    minimum: int
    maximum: int
    default: tuple[int, int]

    @property
    def side(self) -> Schema:
        """The JSON Schema of a width or height."""
        return integer(self.minimum, self.maximum) | {"multipleOf": self.multiple_of}

    def problems(self, width: Any, height: Any) -> list[Problem]:
        """What is wrong with a size."""
        sides = {"width": width, "height": height}
        return [Problem(name, rule, side) for name, side in sides.items() if (rule := mismatch(self.side, side))]

    @classmethod
    def of(cls, pipeline: StableDiffusion3Pipeline, small: SD3Transformer2DModel) -> Self:
        """The limits of a loaded pair."""
        return cls.of_configs(pipeline.transformer.config, small.config, pipeline.vae.config)

    @classmethod
    def of_folder(cls, folder: Path) -> Self | None:
        """The limits of a packed pair, read without torch; None if its configurations do not contain them."""
        parts = ("transformer", "transformer_small", "vae")
        try:
            return cls.of_configs(*(json.loads((folder / part / "config.json").read_text()) for part in parts))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None

    @classmethod
    def of_configs(cls, large: Mapping[str, Any], small: Mapping[str, Any], vae: Mapping[str, Any]) -> Self:
        """The limits that follow from three configurations.

        The position tables bound the size. Below 4 tokens a side the models generate no recognisable picture.
        """
        pixels = 2 ** (len(vae["block_out_channels"]) - 1)
        cell = pixels * large["patch_size"]
        largest = min(large["pos_embed_max_size"], small["pos_embed_max_size"])
        default = min(large["sample_size"] * pixels, largest * cell)
        return cls(cell, 4 * cell, largest * cell, (default, default))
