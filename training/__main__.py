"""`python -m training` makes the whole pair; `python -m training STAGE` runs one stage, resuming where it stopped."""

import argparse
import random
from pathlib import Path

import torch
import torch.distributed as dist

from training import data, stages, train

HERE = Path(__file__).parent
PAIR = HERE.parent / "models" / "emoji"


def main() -> None:
    """Parse the command line and run what it names."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=["fetch", *stages.MINUTES, "export", "evaluate"])
    parser.add_argument("--minutes", type=float, help="time budget of the stage, instead of the usual one")
    parser.add_argument("--all", action="store_true", help="all concepts, for a GPU, instead of concepts.txt")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads to use")
    parser.add_argument("--runs", type=Path, default=HERE / "runs", help="folder of the checkpoints")
    parser.add_argument("--output", type=Path, default=PAIR, help="folder of the exported pair")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = [arguments.stage] if arguments.stage else ["fetch", *stages.MINUTES, "export", "evaluate"]
    if "fetch" in names:
        data.fetch(HERE / "data")
        names.remove("fetch")
    library = data.load_library(HERE / "data", arguments.all) if names else None
    for name in names:
        assert library is not None
        random.seed(0)
        torch.manual_seed(0)
        if name == "export":
            from training.export import export

            export(arguments.runs, library, arguments.output)
        elif name == "evaluate":
            from training.evaluate import evaluate

            evaluate(arguments.runs, library, arguments.output)
        else:
            minutes = arguments.minutes or stages.MINUTES[name]
            train.run(stages.make(name, minutes, library, arguments.runs, device), arguments.runs, device)


if __name__ == "__main__":
    main()
