"""Options of commands that load a pair into this process: which pair, on which device, in which dtype."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from hybridstitch.base.paths import INDEX
from hybridstitch.cli.paths import model_source, packed_pair
from hybridstitch.cli.values import Unreadable, one_of
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.model.files import LEFT_OUT

if TYPE_CHECKING:
    from hybridstitch.pipeline import HybridStitchPipeline
    from hybridstitch.recipe.catalogue import Catalogue

DTYPES = ("auto", "float32", "bfloat16", "float16")
IN_PROCESS = ("pair", "large", "small", "variant", "without", "device", "dtype")
"""The options of `add_pair_options`."""
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


def add_pair_options(command: argparse.ArgumentParser, pair: Path) -> None:
    """Declare the options. pair: the default."""
    command.set_defaults(own_pair=pair)
    command.add_argument("--pair", type=packed_pair, help=f"the folder of a packed pair ({pair})")
    command.add_argument(
        "--large", type=model_source(INDEX), help="instead of a pair: the large model, folder or hub id"
    )
    command.add_argument(
        "--small",
        type=model_source(INDEX, "transformer"),
        help="... and the small one, of which transformer/ is enough",
    )
    add_part_options(command)
    command.add_argument("--device", type=device_name, help="such as cpu or cuda:0 (cuda where there is one)")
    command.add_argument(
        "--dtype",
        type=one_of(*DTYPES),
        help=f"{', '.join(DTYPES)} (auto: float32 on a CPU with room for it, else as the weights are stored)",
    )


def add_part_options(command: argparse.ArgumentParser) -> None:
    """Declare the options that select files of the models."""
    command.add_argument("--variant", help="take weights of this variant, such as fp16, where a part has them")
    command.add_argument(
        "--without",
        type=one_of(*LEFT_OUT),
        action="append",
        help=f"leave this part out: {', '.join(LEFT_OUT)}, the largest text encoder",
    )


def pair_problems(options: argparse.Namespace) -> list[Problem]:
    """The problems of these options together."""
    two = options.large is not None or options.small is not None
    if two and options.pair is not None:
        return [Problem("pair", "either --pair, or --large and --small", str(options.pair))]
    lacking = [name for name in ("large", "small") if getattr(options, name) is None]
    return [Problem(name, "both --large and --small", None) for name in lacking] if two else []


def pair_folder(options: argparse.Namespace) -> Path | None:
    """The folder of the packed pair; None for two models."""
    return None if options.large or options.small else options.pair or options.own_pair


def open_pair(options: argparse.Namespace, catalogue: Catalogue | None = None) -> HybridStitchPipeline:
    """Load the pair that the options name. Raises InvalidInput for an absent device before it loads anything."""
    import torch

    from hybridstitch.base.quiet import hide_loading
    from hybridstitch.pipeline import HybridStitchPipeline

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise_problems([Problem("device", f"a device that torch finds here ({str(error).splitlines()[0]})", device)])
    hide_loading()
    folder = pair_folder(options)
    source = {"large": options.large, "small": options.small} if folder is None else {"folder": folder}
    pipe = HybridStitchPipeline.from_pretrained(
        **source,
        dtype=options.dtype,
        device=device,
        variant=options.variant,
        without=options.without or (),
        catalogue=catalogue,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def for_processes(options: argparse.Namespace, pipe: HybridStitchPipeline) -> argparse.Namespace:
    """The options for other processes that load the same pair: with the dtype that was chosen, without functions."""
    from hybridstitch.model.dtype import dtype_name

    return argparse.Namespace(**{**vars(options), "dtype": dtype_name(pipe.dtype), "run": None, "check": None})


def device_name(text: str) -> str | Unreadable:
    """The name of a device of torch."""
    return text if _DEVICE.fullmatch(text) else Unreadable("cpu, cuda, cuda:N, mps or xpu", text)
