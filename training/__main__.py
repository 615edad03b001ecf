"""`python -m training` makes the whole pair; `python -m training STAGE` runs one stage, resuming where it stopped."""

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from training import data, stages, train
from training.evaluate import evaluate
from training.export import export

HERE = Path(__file__).parent
PAIR = HERE.parent / "models" / "emoji"
SHEET = HERE.parent / "docs" / "images" / "pair-sheet.png"


def main() -> None:
    """Parse the command line and run what it names."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=["fetch", *stages.MINUTES, "export", "evaluate"])
    parser.add_argument("--minutes", type=float, help="time budget of the stage, instead of the usual one")
    parser.add_argument("--all", action="store_true", help="all concepts, for a GPU, instead of concepts.txt")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads to use")
    parser.add_argument("--runs", type=Path, help="folder of the checkpoints (runs, with --all runs-all)")
    parser.add_argument("--output", type=Path, default=PAIR, help="folder of the exported pair")
    parser.add_argument("--start", type=Path, help="folder of a small transformer that its stages go on from")
    parser.add_argument("--compile", action="store_true", help="small model: compile, for minutes, for faster steps")
    parser.add_argument("--count", type=int, help="evaluate: number of held-out scenes, for a quick look")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = arguments.runs or HERE / ("runs-all" if arguments.all else "runs")
    if dist.is_initialized() and arguments.stage not in stages.MINUTES:
        parser.error("torchrun: expected the name of a training stage; export and evaluate run alone")
    _once(lambda: data.fetch(HERE / "data"))
    if arguments.stage == "fetch":
        return
    library = data.load_library(HERE / "data", arguments.all)
    if arguments.stage not in (*stages.STAGES_OF["small"], "export", "evaluate"):
        _once(lambda: stages.prepare(library, runs))
    for name in [arguments.stage] if arguments.stage else [*stages.MINUTES, "export", "evaluate"]:
        random.seed(0)
        torch.manual_seed(0)
        if name == "export":
            export(runs, library, arguments.output)
        elif name == "evaluate":
            sheet = SHEET if arguments.output == PAIR else arguments.output / "sheet.png"
            evaluate(runs, library, arguments.output, sheet, arguments.count)
        else:
            usual = stages.MINUTES[name] * (stages.GPU_SHARE if device.type == "cuda" else 1)
            minutes = arguments.minutes or usual
            stage = stages.make(
                name, minutes, library, runs, device, arguments.output, arguments.start, arguments.compile
            )
            train.run(stage, runs, device)
    if dist.is_initialized():
        dist.destroy_process_group()


def _once(work: Callable[[], None]) -> None:
    """Work that the first process of a torchrun does while the others wait."""
    if not dist.is_initialized():
        return work()
    if dist.get_rank() == 0:
        work()
    dist.barrier()


if __name__ == "__main__":
    main()
