"""`hybridstitch generate`: pictures of a prompt, generated in this process or by a server."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

from hybridstitch.cli.paths import PICTURES, clashes, file_to_write, make_folders
from hybridstitch.cli.report_lines import report_lines
from hybridstitch.cli.request import (
    add_request_options,
    add_server_options,
    given_fields,
    open_client,
    open_for,
    request_problems,
)
from hybridstitch.cli.values import whole
from hybridstitch.errors import Problem, raise_problems


def generate(options: argparse.Namespace) -> None:
    """Generate pictures of one prompt, in this process or by a server."""
    make_folders(options.out, options.report, options.mask_overlay)
    payload = given_fields(options)
    payload["output_format"] = PICTURES[options.out.suffix.lower()]
    pictures, report = _request_server(payload, options) if options.url else _generate_here(payload, options)
    for path, picture in zip(_numbered(options.out, len(pictures)), pictures, strict=True):
        path.write_bytes(picture)
    if options.report:
        options.report.write_text(json.dumps(report, indent=2))
    if options.mask_overlay:
        _write_overlays(pictures, report, options.mask_overlay)
    print(json.dumps(report) if options.json else "\n".join(report_lines(report)))


def check(options: argparse.Namespace) -> None:
    """Raise InvalidInput with every option that is wrong."""
    found = request_problems(options)
    if options.url and options.no_mark:
        found.append(Problem("no-mark", "nothing beside --url: the server marks its pictures or not", True))
    raise_problems(found + clashes(options, ("out", "report", "mask_overlay")))


def _numbered(path: Path, count: int) -> list[Path]:
    """Return the path for one picture; for several, path-1, path-2 and so on, with the same suffix."""
    if count == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


def _request_server(payload: dict[str, Any], options: argparse.Namespace) -> tuple[list[bytes], dict[str, Any]]:
    from hybridstitch.serving.client.replies import Result

    reply = open_client(options).predict(payload | {"response_format": "json"}, options.model)
    result = Result.from_document(reply.json())
    return [result.image_bytes, *result.other_bytes], result.report


def _generate_here(payload: dict[str, Any], options: argparse.Namespace) -> tuple[list[bytes], dict[str, Any]]:
    from hybridstitch.serving.worker.render import generate
    from hybridstitch.wire.documents import encode_picture
    from hybridstitch.wire.request import parse_request

    pipeline = open_for(options, payload)
    pipeline.marks = not options.no_mark
    request = parse_request(payload, {}, pipeline.size_limits, pipeline.catalogue, loras=pipeline.adapters.names)
    rendering = generate(pipeline, request)
    pictures = [
        encode_picture(image, rendering.request.of_image(index)) for index, image in enumerate(rendering.images)
    ]
    return pictures, rendering.report


def _write_overlays(pictures: list[bytes], report: dict[str, Any], path: Path) -> None:
    from PIL import Image

    from hybridstitch.base.images import encode_image
    from hybridstitch.base.overlay import mask_overlay

    for number, (picture, target) in enumerate(zip(pictures, _numbered(path, len(pictures)), strict=True)):
        overlay = mask_overlay(Image.open(io.BytesIO(picture)), report, number)
        target.write_bytes(encode_image(overlay, PICTURES[target.suffix.lower()]))


def add_command(commands: Any, pair: Path) -> None:
    """Declare the command and its options."""
    command = commands.add_parser("generate", help=generate.__doc__, description=generate.__doc__)
    command.set_defaults(run=generate, check=check)
    add_request_options(
        command,
        seed="of the first picture; each next one has the next seed",
        region="the large model renders all of it",
    )
    command.add_argument("--num-images", type=whole(), help="1 to 8 pictures, to OUT-1, OUT-2 and so on")
    command.add_argument(
        "--out", type=file_to_write(*PICTURES), default="picture.png", help=".png, .jpg or .webp (%(default)s)"
    )
    command.add_argument("--report", type=file_to_write(), help="write the report as JSON")
    command.add_argument(
        "--mask-overlay",
        type=file_to_write(*PICTURES),
        help="write the picture with the tokens of the large model marked",
    )
    command.add_argument(
        "--no-mark", action="store_true", help="without the metadata that says that the pictures are generated"
    )
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    add_server_options(command, pair)
