"""Options of commands that ask for a picture: the fields of the request, and who answers it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridstitch.serving.client import Client

TOKEN_VARIABLE = "HYBRIDSTITCH_TOKEN"
FIELDS = (
    *("prompt", "negative_prompt", "seed", "recipe", "speed", "num_inference_steps", "guidance_scale"),
    *("width", "height", "region", "deadline_ms"),
)
"""The options that are passed on as fields of the request."""


def add_request_options(command: argparse.ArgumentParser, seed: str, region: str) -> None:
    """Declare the options in FIELDS. seed, region: what is said of those two."""
    command.add_argument("prompt")
    command.add_argument("--negative-prompt")
    command.add_argument("--seed", type=int, help=seed)
    command.add_argument("--recipe", type=_name_or_json, help="a name, or a JSON object")
    command.add_argument(
        "--speed", type=float, help="instead of a recipe: so many times fewer FLOPs than the large model"
    )
    command.add_argument("--num-inference-steps", type=int)
    command.add_argument("--guidance-scale", type=float)
    command.add_argument("--width", type=int)
    command.add_argument("--height", type=int)
    command.add_argument("--region", type=_corners, metavar="X0,Y0,X1,Y1", help=region)
    command.add_argument("--deadline-ms", type=int, help="give up at the first step after so many milliseconds")


def add_server_options(command: argparse.ArgumentParser, pair: Path) -> None:
    """Declare the options that say who answers: a pair in this process, or a server."""
    command.add_argument("--pair", type=Path, default=pair, help="draw in this process with it (%(default)s)")
    command.add_argument("--url", help="let this server draw, for instance http://127.0.0.1:8080")
    command.add_argument("--model", default="hybridstitch", help="with --url: the model's name (%(default)s)")
    command.add_argument(
        "--key-file", type=Path, help=f"with --url: the server's key_file.json (the token in {TOKEN_VARIABLE})"
    )


def given_fields(options: argparse.Namespace, names: Sequence[str] = FIELDS) -> dict[str, Any]:
    """The fields of the request that were given."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def open_client(options: argparse.Namespace) -> Client:
    """A client of the server that the options name."""
    from hybridstitch.serving.client import Client
    from hybridstitch.serving.doctor import read_tokens

    token = read_tokens(options.key_file)["inference"] if options.key_file else os.environ.get(TOKEN_VARIABLE)
    return Client(options.url, token, timeout=600)


def _name_or_json(text: str) -> Any:
    return json.loads(text) if text.startswith("{") else text


def _corners(text: str) -> list[int]:
    return [int(value) for value in text.split(",")]
