"""`make demo-compare`: the stitched against the plain archive on one TorchServe, on prompts held out from training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hybridstitch.base.paths import EMBEDDED_PAIR
from hybridstitch.base.prompt_files import BUILT_IN, read_prompts
from hybridstitch.compare import workflow
from hybridstitch.compare.comparison import Comparison
from hybridstitch.compare.endpoints.spec import Credentials
from hybridstitch.compare.run.run import Load
from hybridstitch.compare.several import PAUSE_SECONDS
from hybridstitch.errors import InvalidInput
from hybridstitch.serving.server.served import PLAIN, STITCHED, served

PORT = 18080
"""Fixed, so that a comparison that was interrupted finds its endpoints again."""


def run_demo(out: Path, count: int, steps: int, port: int = PORT) -> str:
    """Compare the two archives of the embedded pair.

    Args:
        out: Folder of the comparison.
        count: Held-out prompts, each with two seeds.
        steps: Steps of each picture.
        port: First of the server's five ports.

    Returns:
        The verdict in one sentence, and the path of the page.
    """
    store = out.with_name(out.name + "-store")
    with served(EMBEDDED_PAIR, store, (STITCHED, PLAIN), port=port) as server:
        comparison = Comparison(
            a=f"{server.url}/predictions/plain#num_inference_steps={steps}",
            b=f"{server.url}/predictions/hybridstitch#num_inference_steps={steps}",
            prompts=read_prompts(BUILT_IN, count),
            prompts_from=BUILT_IN,
            seeds=[0, 1],
            load=Load(pause=PAUSE_SECONDS),
        )
        report = workflow.run(comparison, out, Credentials({"a": server.token(), "b": server.token()}))
    return f"{report['sentence']}\n{out / 'report.html'}\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Compare the stitched endpoint with the plain one, and write the page."
    )
    parser.add_argument("--out", type=Path, default=Path("build/compare"), help="(%(default)s)")
    parser.add_argument("--count", type=int, default=32, help="prompts, two seeds each (%(default)s)")
    parser.add_argument("--steps", type=int, default=28, help="(%(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="(%(default)s)")
    options = parser.parse_args()
    try:
        sys.stdout.write(run_demo(options.out, options.count, options.steps, options.port))
    except InvalidInput as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
