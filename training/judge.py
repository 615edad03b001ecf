"""How good the pictures of a bench are by themselves: `python -m training.judge build/bench`.

The bench measures fidelity to the large model's pictures. This measures whether a picture shows its prompt, with the
features and the real pictures that the pair itself was evaluated with. Needs `python -m training fetch`.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from hybridstitch.base.markdown import markdown_table
from hybridstitch.bench.folder import QUALITY, BenchFolder
from hybridstitch.errors import Problem, raise_problems
from hybridstitch.measure.intervals import Interval, without_nan
from training.data import load_library
from training.evaluate import Judge
from training.scenes import Library
from training.vocabulary import Scene, caption, held_out


def judge(folder: Path, library: Library, scenes: list[Scene]) -> dict[str, dict[str, Interval]]:
    """Figures of every contender in a bench's folder, also written there as quality.json, for the bench's own table."""
    bench = json.loads((folder / "settings.json").read_text())
    kept = BenchFolder(folder, bench["settings"], {})
    texts = kept.settings["texts"]
    scene_of = {caption(scene): scene for scene in scenes}
    unknown = [text for text in texts if text not in scene_of]
    raise_problems([Problem("folder", "a bench on prompts of heldout_prompts.txt", unknown[:3])] if unknown else [])
    drawn: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for result in kept.results():
        drawn[result.contender].append((result.prompt, result.seed))
    judges: dict[tuple[tuple[int, int], ...], Judge] = {}
    figures = {}
    for contender, cases in drawn.items():
        key = tuple(sorted(cases))
        if key not in judges:
            judges[key] = Judge(library, [scene_of[texts[prompt]] for prompt, _ in key])
        pictures = np.stack([np.asarray(Image.open(kept.picture_path(contender, *case))) for case in key])
        figures[contender] = judges[key].intervals(pictures, np.array([prompt for prompt, _ in key]))
    known = {name: {figure: vars(each) for figure, each in found.items()} for name, found in figures.items()}
    (folder / QUALITY).write_text(json.dumps(without_nan(known), indent=1))
    return figures


def main() -> None:
    """Judge the bench that the command line names and print a table."""
    parser = argparse.ArgumentParser(prog="python -m training.judge", description=__doc__)
    parser.add_argument("folder", type=Path, help="of a `hybridstitch bench` on the pair's held-out prompts")
    folder = parser.parse_args().folder
    figures = judge(folder, load_library(Path(__file__).parent / "data"), held_out())
    names = list(next(iter(figures.values())))
    rows = [[contender, *(f"{each:.3f}" for each in found.values())] for contender, found in figures.items()]
    print(markdown_table(["contender", *names], rows), end="")


if __name__ == "__main__":
    main()
