"""The forwards that `bench --scale` times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hybridstitch.bench.scale_models import TEXT_TOKENS, shape_of, tokens_of
from hybridstitch.model.flops import forward_flops

SHARES = (0.1, 0.2, 0.3, 0.5)
"""Shares of the image tokens that the large model is timed on."""
EAGER, COMPILED = "eager", "compiled"
"""Modes: the blocks as they are, or compiled by `torch.compile`."""
DENSE, CACHED, SUBSET, HALF = "dense", "dense, fills the cache", "subset", "cond or uncond alone"


@dataclass(frozen=True)
class Setting:
    """What forwards of one kind have in common.

    Attributes:
        pixels: side of the square picture.
        pictures: pictures of a forward; with guidance each has two rows.
        mode: `EAGER` or `COMPILED`.
    """

    pixels: int
    pictures: int
    mode: str = EAGER

    @property
    def label(self) -> str:
        """Size and pictures in words, with the mode if it is not eager."""
        words = f"{self.pixels} px, {self.pictures} {'picture' if self.pictures == 1 else 'pictures'}"
        return words if self.mode == EAGER else f"{words}, {self.mode}"


@dataclass(frozen=True)
class Case:
    """One forward.

    Attributes:
        model: name of the model, a key of `SHAPES`.
        kind: `DENSE`, `CACHED`, `SUBSET` or `HALF`.
        share: share of the image tokens, 1 except for `SUBSET`.
    """

    model: str
    kind: str
    setting: Setting
    share: float = 1.0

    @property
    def label(self) -> str:
        """The kind in words, with the share of a subset."""
        return f"{self.share:.0%} of the tokens".replace("%", " %") if self.kind == SUBSET else self.kind

    @property
    def image_tokens(self) -> int:
        """Image tokens of a picture."""
        return tokens_of(self.setting.pixels, shape_of(self.model))

    @property
    def rendered(self) -> int:
        """Image tokens of a picture that the forward renders."""
        return max(1, round(self.share * self.image_tokens))

    @property
    def rows(self) -> int:
        """Rows of the batch: cond and uncond of each picture, or one of them."""
        return self.setting.pictures * (1 if self.kind == HALF else 2)

    def flops(self, layers: int | None = None) -> int:
        """FLOPs of the forward, for a model of this many layers; all by default."""
        shape = shape_of(self.model)
        if layers is not None:
            shape.num_layers = min(layers, shape.num_layers)
            shape.dual_attention_layers = tuple(each for each in shape.dual_attention_layers if each < layers)
        return self.rows * forward_flops(shape, self.rendered, self.image_tokens, TEXT_TOKENS)


def cases_of(large: str, small: str, settings: Sequence[Setting]) -> Iterator[Case]:
    """Yield the forwards of a pair, those of the first setting first.

    Compiled ones are those of a guided step: a batch of one row would need more graphs.
    """
    for setting in settings:
        yield Case(large, DENSE, setting)
        yield Case(large, CACHED, setting)
        for share in SHARES:
            yield Case(large, SUBSET, setting, share)
        yield Case(small, DENSE, setting)
        if setting.mode == EAGER:
            yield Case(large, HALF, setting)
            yield Case(small, HALF, setting)
