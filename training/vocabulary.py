"""What the pair can generate: colours, styles, scenes and their captions, and the held-out scenes."""

import random
from dataclasses import dataclass
from pathlib import Path

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (24, 24, 24),
    "grey": (150, 150, 150),
    "red": (214, 48, 49),
    "orange": (245, 140, 40),
    "yellow": (250, 214, 70),
    "green": (76, 175, 80),
    "blue": (52, 120, 220),
    "purple": (130, 80, 190),
    "pink": (245, 160, 190),
}
"""Backgrounds, sRGB 0..255. A caption without one means the first, white."""

STYLES = {"3d": 0.4, "noto": 0.3, "flat": 0.3}
"""Picture styles and their share of the training scenes. A caption without one means the first, 3d."""

GRAMMAR = "a an and at the on to background small"
"""All other words of the captions."""

CORNERS = ("top left", "top right", "bottom left", "bottom right")

# fmt: off
COMMON: tuple[str, ...] = (
    "red apple", "green apple", "banana", "strawberry", "lemon", "watermelon", "carrot", "mushroom", "pizza",
    "hamburger", "doughnut", "birthday cake", "dog face", "cat face", "panda", "fox", "frog", "lion", "pig face",
    "rabbit face", "bear", "penguin", "duck", "turtle", "butterfly", "sunflower", "cactus", "Christmas tree",
    "automobile", "bicycle", "bus", "rocket", "airplane", "sailboat", "house", "sun", "star", "umbrella",
    "alarm clock", "soccer ball", "basketball", "guitar", "key", "light bulb", "crown", "ghost", "robot", "red heart",
)
# fmt: on
"""Concepts that people try first: they come three times as often as any other."""

CONCEPTS = Path(__file__).parent / "concepts.txt"
"""The 513 concepts that two CPU cores can learn, by their CLDR names; `--all` takes about 1800."""
HELD_OUT = Path(__file__).parent / "held_out.txt"


@dataclass(frozen=True)
class Scene:
    """What a picture shows: one or two concepts, one style, a background from its top colour to its bottom colour.

    With a `corner`, the only object is small and lies there. Otherwise one object is large and in the middle, and two
    objects lie side by side, the first on the left.
    """

    concepts: tuple[str, ...]
    style: str
    background: tuple[str, str]
    corner: str | None = None


def article(phrase: str) -> str:
    """The phrase with an article, as English wants it for nearly all names."""
    vowel = phrase[0].lower() in "aeio" or phrase.startswith("um")
    return f"{'an' if vowel else 'a'} {phrase}"


def caption(scene: Scene, names: tuple[str, ...] | None = None, rng: random.Random | None = None) -> str:
    """The scene in words: plainly, or with `rng` in one of several ways.

    Args:
        names: other names for the concepts, in their order.
        rng: chooses whether the caption has articles, the word background, the default style and white.
    """
    says = rng.random if rng else lambda: 1.0
    style = "" if scene.style == "3d" and says() > 0.4 else f"{scene.style} "
    size = "small " if scene.corner else ""
    phrases = [f"{size}{style}{(names or scene.concepts)[0]}", *(names or scene.concepts)[1:]]
    if says() < 0.5:
        phrases = [article(phrase) for phrase in phrases]
    text = " and ".join(phrases)
    if scene.corner:
        text += f" at the {scene.corner}"
    top, bottom = scene.background
    if top == bottom == "white" and says() < 0.5:
        return text
    colour = top if top == bottom else f"{top} to {bottom}"
    return f"{text} on {article(colour)} background" if says() < 0.3 else f"{text} on {colour}"


def random_background(rng: random.Random) -> tuple[str, str]:
    """Plain in three of four scenes, white more often than others; a gradient of two colours in the rest."""
    if rng.random() < 0.25:
        top, bottom = rng.sample(list(COLOURS), 2)
        return top, bottom
    colour = "white" if rng.random() < 0.1 else rng.choice(list(COLOURS))
    return colour, colour


def held_out() -> list[Scene]:
    """The scenes of `held_out.txt`: 200 of one concept on a gradient, 40 of two on a plain colour.

    A line reads `concept, style, top colour, bottom colour`; of two concepts, both names come before the style.
    """
    scenes = []
    for line in HELD_OUT.read_text().splitlines():
        *concepts, style, top, bottom = line.split(", ")
        scenes.append(Scene(tuple(concepts), style, (top, bottom)))
    return scenes


class HeldOut:
    """Knows the scenes that no training picture may show: in no size and place, beside nothing else, in no order."""

    def __init__(self, scenes: list[Scene]) -> None:
        self._concepts: dict[tuple[str, tuple[str, str]], list[set[str]]] = {}
        for scene in scenes:
            self._concepts.setdefault((scene.style, scene.background), []).append(set(scene.concepts))

    def __contains__(self, scene: Scene) -> bool:
        kept_back = self._concepts.get((scene.style, scene.background), [])
        return any(concepts <= set(scene.concepts) for concepts in kept_back)
