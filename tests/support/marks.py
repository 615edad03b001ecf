"""The mark of a picture's file, as programs of others read it."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile

import pyexiv2

SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
Mark = tuple[str | None, str | None]
UNMARKED: Mark = (None, None)


def by_exiv2(picture: bytes) -> Mark:
    """The source type and the tool that Exiv2 finds in a file."""
    with pyexiv2.ImageData(picture) as opened:
        found = opened.read_xmp()
    return found.get("Xmp.iptcExt.DigitalSourceType"), found.get("Xmp.xmp.CreatorTool")


def by_exiftool(picture: bytes) -> Mark:
    """The same, found by ExifTool. It also takes the file apart: a broken one raises CalledProcessError."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(picture)
        file.flush()
        command = ["exiftool", "-json", "-n", "-validate", "-XMP-iptcExt:DigitalSourceType", "-XMP-xmp:CreatorTool"]
        done = subprocess.run([*command, file.name], capture_output=True, text=True, timeout=60, check=True)
    (found,) = json.loads(done.stdout)
    return found.get("DigitalSourceType"), found.get("CreatorTool")


def content_of(url: str) -> bytes:
    """The picture in a `data:` URL."""
    return base64.b64decode(url.partition(";base64,")[2])


def mark_of(picture: bytes) -> Mark:
    """The mark that every reader here finds. Exiv2 comes with the tests, ExifTool is used where it is installed."""
    readers = [by_exiv2, *([by_exiftool] if shutil.which("exiftool") else [])]
    found = {reader(picture) for reader in readers}
    assert len(found) == 1, found
    return found.pop()
