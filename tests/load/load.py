"""Many clients at once on the embedded pair, every answer checked: `python -m tests.load.load`.

Three parts. The load: clients that each send the next request as soon as the last is answered, recipes and sizes mixed,
some requests bad on purpose; pictures are compared with those drawn in process. TorchServe's own share: the same
request over HTTP and in process, in turn. With `--batching`: throughput at several batch sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hybridstitch.base.paths import EMBEDDED_PAIR, HELD_OUT_PROMPTS
from hybridstitch.base.prompt_files import read_prompts
from hybridstitch.bench.http import PAUSE_SECONDS
from hybridstitch.measure.host import machine
from hybridstitch.serving.client.replies import Result
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.server import Server
from tests.load.clients import Local, fire, memory_watched
from tests.load.traffic import LoadRequest, complaints, latencies, leaks, memory_figures, mixed, valid_requests

MODEL = "hybridstitch"
BAD_SHARE = 0.05
PROMPTS = 2  # each in every recipe and size: their pictures are drawn in process, too
BATCH_SIZES = (1, 2, 4)
BATCH_DELAY_MS = 50  # how long TorchServe waits for a batch to fill
SHARE_LIMIT = 0.05  # of a 28-step request, what TorchServe may cost

PERCENTILES = {f"{q}, s": f"{q}_s" for q in ("p50", "p95", "p99")}

SHARES = {"difference": "share", "outside of the pipeline": "outside"}

Fields = dict[str, Any]


def load(server: Server, local: Local, requests: Sequence[LoadRequest], clients: int) -> dict[str, Any]:
    """The load, and all that was wrong with it."""
    references = local.references(requests)
    pids = [worker["pid"] for worker in server.workers(MODEL)]
    started = time.perf_counter()
    with memory_watched(pids) as samples:
        replies = fire(server, requests, clients, MODEL)
        seconds = time.perf_counter() - started
    memory = memory_figures(samples, replies)
    wrong = complaints(requests, replies, references)
    if leaks(memory):
        wrong.append(f"the worker's memory grew: {memory}")
    if pids != [worker["pid"] for worker in server.workers(MODEL)]:
        wrong.append("a worker ended and was replaced")
    return {
        "clients": clients,
        "distinct": len(references),
        "seconds": seconds,
        "requests_per_s": len(replies) / seconds,
        "latencies": latencies(replies),
        "memory": memory,
        "wrong": wrong,
    }


def own_share(server: Server, local: Local, fields: Fields, count: int) -> dict[str, Any]:
    """What TorchServe and HTTP add to a request: `count` times over HTTP and in process, in turn.

    Two figures: HTTP minus in process, by medians, which also has what makes one process faster than another; and, of
    each answer, the time that the client waited beyond what the worker's pipeline took, which also has the encoding
    of the picture. The pause is bench/http.py's: threads of whoever drew before spin for a moment.
    """
    seconds: dict[str, list[float]] = {"http": [], "local": []}
    outside: list[float] = []
    for turn in tqdm(range(count + 1), desc="http and local"):
        for way in sorted(seconds, reverse=turn % 2 == 1):
            time.sleep(PAUSE_SECONDS)
            started = time.perf_counter()
            result = server.client.generate(**fields, model=MODEL) if way == "http" else local.answer(fields)
            seconds[way].append(time.perf_counter() - started)
            if isinstance(result, Result):
                outside.append(1 - result.report["timing_ms"]["total"] / 1000 / seconds["http"][-1])
    http, in_process = (statistics.median(seconds[way][1:]) for way in ("http", "local"))  # the first warms up
    shares = {"share": (http - in_process) / http, "outside": statistics.median(outside[1:])}
    wrong = [f"TorchServe's own {name} is {share:.1%}" for name, share in shares.items() if share >= SHARE_LIMIT]
    return {"requests": count, "http_p50_s": http, "local_p50_s": in_process, **shares, "wrong": wrong}


def batching(server: Server, local: Local, prompt: str, steps: int, clients: int, count: int) -> dict[str, Any]:
    """Throughput and latency of requests of one shape at each batch size."""
    shape = {"num_inference_steps": steps, "recipe": MODEL}
    requests = [LoadRequest(MODEL, {"prompt": prompt, "seed": index % clients, **shape}) for index in range(count)]
    references = local.references(requests)
    rows, wrong = [], []
    for size in BATCH_SIZES:
        model = f"batch-{size}"
        settings = {"batch_size": size, "max_batch_delay_ms": BATCH_DELAY_MS}
        server.client.register(f"{MODEL}.mar", model, **settings)
        try:
            fire(server, requests[:clients], clients, model)  # warms up
            started = time.perf_counter()
            replies = fire(server, requests, clients, model)
            seconds = time.perf_counter() - started
        finally:
            server.client.unregister(model)
        rows.append({"batch_size": size, "requests_per_s": count / seconds, **latencies(replies)[0]})
        wrong += [f"{model}: {text}" for text in complaints(requests, replies, references)]
    return {"clients": clients, "rows": rows, "wrong": wrong}


def markdown(found: dict[str, Any]) -> str:
    """All parts that ran, for docs/benchmarks.md."""
    run = found["load"]
    memory = run["memory"]
    lines = [
        f"{found['machine']}",
        "",
        f"{run['clients']} clients, {run['distinct']} distinct requests, {run['seconds']:.0f} s, "
        f"{run['requests_per_s']:.2f} requests/s; memory of the worker {memory['start_mib']:.0f} MiB at the start, "
        f"{memory['warm_mib']:.0f} after warm-up, {memory['end_mib']:.0f} at the end, slope "
        f"{memory['slope_mib_per_minute']:+.1f} MiB a minute",
        "",
        *_table(run["latencies"], {"requests": "requests", "count": "count"} | PERCENTILES),
    ]
    if share := found.get("own_share"):
        lines += [
            "",
            *_table(
                [share], {"requests": "requests", "over HTTP, s": "http_p50_s", "in process, s": "local_p50_s"} | SHARES
            ),
        ]
    if batches := found.get("batching"):
        columns = {"batch size": "batch_size", "count": "count", "requests/s": "requests_per_s"}
        lines += ["", *_table(batches["rows"], columns | PERCENTILES)]
    wrong = _wrong(found)
    return "\n".join([*lines, "", f"{len(wrong)} wrong", *(f"- {text}" for text in wrong), ""])


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    """columns: the name in a row, by heading."""
    values = [[row[name] for name in columns.values()] for row in rows]
    cells = [[f"{value:.3f}" if type(value) is float else str(value) for value in line] for line in values]
    return [f"| {' | '.join(line)} |" for line in ([*columns], ["---"] * len(columns), *cells)]


def _wrong(found: dict[str, Any]) -> list[str]:
    return [text for part in found.values() if isinstance(part, dict) for text in part["wrong"]]


def main() -> int:
    parser = argparse.ArgumentParser(description="Load a server with mixed requests and check every answer.")
    parser.add_argument("--requests", type=int, default=320, help="of the load (%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="at once (%(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="of a request of the load (%(default)s)")
    parser.add_argument("--share-requests", type=int, default=32, help="for TorchServe's own share (%(default)s)")
    parser.add_argument("--batching", action="store_true", help="measure batch sizes, too")
    parser.add_argument("--batch-requests", type=int, default=48, help="at each batch size (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the bad requests (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/load"), help="folder for load.json and load.md")
    options = parser.parse_args()
    prompts = read_prompts(HELD_OUT_PROMPTS, PROMPTS)
    requests = mixed(valid_requests(prompts, options.steps), options.requests, BAD_SHARE, options.seed)
    pack(EMBEDDED_PAIR, out=options.out / "model_store")
    local = Local(EMBEDDED_PAIR)
    found: dict[str, Any] = {"machine": machine()}
    with Server(options.out / "model_store") as server:
        server.register(MODEL)
        found["load"] = load(server, local, requests, options.clients)
        full = {"prompt": prompts[0], "seed": 0, "num_inference_steps": 28}
        found["own_share"] = own_share(server, local, full, options.share_requests)
        if options.batching:
            batch = (prompts[0], options.steps, options.clients, options.batch_requests)
            found["batching"] = batching(server, local, *batch)
    said = markdown(found)
    (options.out / "load.json").write_text(json.dumps(found, indent=1))
    (options.out / "load.md").write_text(said)
    sys.stdout.write(said)
    return 1 if _wrong(found) else 0


if __name__ == "__main__":
    sys.exit(main())
