"""What the pair can draw: concepts, background colours, captions, and the combinations never trained on."""

import random
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
"""Plain backgrounds, sRGB 0..255. A caption without a colour means the first one, white."""

# fmt: off
CONCEPTS: tuple[str, ...] = (
    # food
    "red apple", "green apple", "banana", "strawberry", "lemon", "watermelon", "carrot", "mushroom", "pizza",
    "hamburger", "doughnut", "birthday cake",
    # animals and plants
    "dog face", "cat face", "panda", "fox", "frog", "lion", "pig face", "rabbit face", "bear", "penguin", "duck",
    "turtle", "butterfly", "sunflower", "cactus", "Christmas tree",
    # travel and sky
    "automobile", "bicycle", "bus", "rocket", "airplane", "sailboat", "house", "sun", "star", "umbrella",
    # things and figures
    "alarm clock", "soccer ball", "basketball", "guitar", "key", "light bulb", "crown", "ghost", "robot",
    "red heart",
)
# fmt: on
"""Unicode names of the emoji, as the picture package's names file spells them."""

TEMPLATES = ("{name} on {colour}", "{article} {name} on {colour}", "{article} {name} on a {colour} background")
BARE_TEMPLATES = ("{name}", "{article} {name}")
HELD_OUT = Path(__file__).parent / "held_out.txt"

Combination = tuple[str, str]
"""A concept and a colour."""


def caption(concept: str, colour: str, template: str) -> str:
    """Fill a template, with the article that English wants."""
    article = "an" if concept[0] in "aeio" or concept.startswith("um") else "a"
    return template.format(name=concept, article=article, colour=colour)


def held_out() -> list[Combination]:
    """The combinations that no training scene shows, as listed in `held_out.txt`.

    White is never held out: it is what a caption without a colour means.
    """
    concepts_and_colours = (line.split(" on ") for line in HELD_OUT.read_text().splitlines())
    return [(concept, colour) for concept, colour in concepts_and_colours]


def trained() -> list[Combination]:
    """All other combinations."""
    excluded = set(held_out())
    return [pair for concept in CONCEPTS for colour in COLOURS if (pair := (concept, colour)) not in excluded]


def random_caption(concept: str, colour: str, rng: random.Random) -> str:
    """A training caption; every second white scene goes without its colour."""
    bare = colour == "white" and rng.random() < 0.5
    return caption(concept, colour, rng.choice(BARE_TEMPLATES if bare else TEMPLATES))
