"""Load test of the embedded pair, with every answer checked: `python -m tests.load`.

It has three parts:

1. Load: several clients each send the next request as soon as the last one is answered. Recipes and sizes are mixed,
   and some requests are invalid. Pictures are compared with those that this process generates.
2. TorchServe's share: the same request over HTTP and in this process, in turn.
3. Batching, with `--batching`: throughput at several batch sizes.

With `--engine ray` it has one part: the same load on replicas of Ray Serve, one of which is killed in the middle.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hybridstitch.base.markdown import markdown_table
from hybridstitch.base.paths import EMBEDDED_PAIR, HELD_OUT_PROMPTS
from hybridstitch.base.prompt_files import read_prompts
from hybridstitch.measure.host import machine
from hybridstitch.serving.client.replies import Result
from hybridstitch.serving.manifest import read_archive
from hybridstitch.serving.ray.server import RayServer
from hybridstitch.serving.server.pack import pack
from hybridstitch.serving.server.served import STITCHED, served
from hybridstitch.serving.server.server import Server
from hybridstitch.wire.names import WORKER_HEADER
from tests.load.clients import LocalPipeline, memory_watched, send_all
from tests.load.traffic import LoadRequest, complaints, latencies, leaks, memory_figures, mixed, valid_requests

BAD_SHARE = 0.05
PROMPTS = 2
"""Each is generated with every recipe and size, over HTTP and in this process."""
BATCH_SIZES = (1, 2, 4)
BATCH_DELAY_MS = 50
"""Time that TorchServe waits for a batch to fill."""
SHARE_LIMIT = 0.05
"""Largest share of a 28-step request that TorchServe may take."""
PAUSE_SECONDS = 0.5
"""Pause before each timed request: threads of the process that was last busy spin for a moment and slow the other."""
PERCENTILES = {f"{q}, s": f"{q}_s" for q in ("p50", "p95", "p99")}
SHARES = {"difference": "share", "outside of the pipeline": "outside"}

Fields = dict[str, Any]


def load(server: Server, local: LocalPipeline, requests: Sequence[LoadRequest], clients: int) -> dict[str, Any]:
    """Run the load and return its figures. `wrong` lists every violation."""
    references = local.references(requests)
    pids = [worker["pid"] for worker in server.workers(STITCHED)]
    started = time.perf_counter()
    with memory_watched(pids) as samples:
        replies = send_all(server, requests, clients, STITCHED)
        seconds = time.perf_counter() - started
    memory = memory_figures(samples, replies)
    wrong = complaints(requests, replies, references)
    if leaks(memory):
        wrong.append(f"the worker's memory grew: {memory}")
    if pids != [worker["pid"] for worker in server.workers(STITCHED)]:
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


def load_on_ray(
    store: Path, local: LocalPipeline, requests: Sequence[LoadRequest], clients: int, replicas: int
) -> dict[str, Any]:
    """Run the load on Ray Serve, kill a replica when half of it is answered, and return the figures.

    The request that the replica works on may be lost, with status 503. `wrong` lists every other violation.
    """
    references = local.references(requests)
    with RayServer([read_archive(pack(EMBEDDED_PAIR, out=store))], replicas=replicas) as server:
        valid = next(request for request in requests if request.wrong is None)
        victim = int(server.client.predict(dict(valid.fields)).headers[WORKER_HEADER])
        started = time.perf_counter()
        replies = send_all(server, requests, clients, STITCHED, lambda: os.kill(victim, signal.SIGKILL))
        seconds = time.perf_counter() - started
    kept = [reply for reply in replies if reply.status != HTTPStatus.SERVICE_UNAVAILABLE]
    lost = len(replies) - len(kept)
    wrong = complaints([reply.request for reply in kept], kept, references)
    if lost > 1:
        wrong.append(f"the replica that was killed lost {lost} requests, not only the one that it worked on")
    if len(replies) != len(requests):
        wrong.append(f"{len(requests) - len(replies)} of {len(requests)} requests were never finished")
    return {
        "clients": clients,
        "replicas": replicas,
        "distinct": len(references),
        "seconds": seconds,
        "requests_per_s": len(replies) / seconds,
        "latencies": latencies(kept),
        "lost": lost,
        "wrong": wrong,
    }


def own_share(server: Server, local: LocalPipeline, fields: Fields, count: int) -> dict[str, Any]:
    """Measure what TorchServe and HTTP add to a request, in two ways.

    `share`: (median over HTTP - median in process) / median over HTTP. It includes what makes one process faster than
    another. `outside`: median share of the client's waiting time outside of the worker's pipeline. It includes the
    encoding of the picture.

    Args:
        server: Server of the pair.
        local: The same pair in this process.
        fields: The request.
        count: Times that it is sent over HTTP, and times that it is generated in process. The first time is a warm-up
            and not counted among them.
    """
    seconds: dict[str, list[float]] = {"http": [], "local": []}
    outside: list[float] = []
    for turn in tqdm(range(count + 1), desc="http and local"):
        for way in sorted(seconds, reverse=turn % 2 == 1):
            time.sleep(PAUSE_SECONDS)
            started = time.perf_counter()
            result = server.client.generate(**fields, model=STITCHED) if way == "http" else local.answer(fields)
            seconds[way].append(time.perf_counter() - started)
            if isinstance(result, Result):
                outside.append(1 - result.report["timing_ms"]["total"] / 1000 / seconds["http"][-1])
    http, in_process = (statistics.median(seconds[way][1:]) for way in ("http", "local"))
    shares = {"share": (http - in_process) / http, "outside": statistics.median(outside[1:])}
    wrong = [f"TorchServe's own {name} is {share:.1%}" for name, share in shares.items() if share >= SHARE_LIMIT]
    return {"requests": count, "http_p50_s": http, "local_p50_s": in_process, **shares, "wrong": wrong}


def batching(server: Server, local: LocalPipeline, prompt: str, steps: int, clients: int, count: int) -> dict[str, Any]:
    """Measure throughput and latency of `count` equal-sized requests at each batch size."""
    shape = {"num_inference_steps": steps, "recipe": "hybridstitch"}
    requests = [
        LoadRequest("hybridstitch", {"prompt": prompt, "seed": index % clients, **shape}) for index in range(count)
    ]
    references = local.references(requests)
    rows, wrong = [], []
    for size in BATCH_SIZES:
        model = f"batch-{size}"
        settings = {"batch_size": size, "max_batch_delay_ms": BATCH_DELAY_MS}
        server.client.register(f"{STITCHED}.mar", model, **settings)
        try:
            send_all(server, requests[:clients], clients, model)  # warm-up
            started = time.perf_counter()
            replies = send_all(server, requests, clients, model)
            seconds = time.perf_counter() - started
        finally:
            server.client.unregister(model)
        rows.append({"batch_size": size, "requests_per_s": count / seconds, **latencies(replies)[0]})
        wrong += [f"{model}: {text}" for text in complaints(requests, replies, references)]
    return {"clients": clients, "rows": rows, "wrong": wrong}


def markdown(found: dict[str, Any]) -> str:
    """Return the figures of all parts that ran, as docs/benchmarks.md shows them."""
    run = found["load"]
    summary = (
        f"{run['clients']} clients, {run['distinct']} distinct requests, {run['seconds']:.0f} s, "
        f"{run['requests_per_s']:.2f} requests/s"
    )
    if memory := run.get("memory"):
        summary += (
            f"; memory of the worker {memory['start_mib']:.0f} MiB at the start, {memory['warm_mib']:.0f} after "
            f"warm-up, {memory['end_mib']:.0f} at the end, slope {memory['slope_mib_per_minute']:+.1f} MiB a minute"
        )
    if "lost" in run:
        summary += f"; {run['replicas']} replicas, one killed in the middle, requests lost with it: {run['lost']}"
    latency = _table(run["latencies"], {"requests": "requests", "count": "count"} | PERCENTILES)
    parts = [found["machine"], summary, latency]
    if share := found.get("own_share"):
        columns = {"requests": "requests", "over HTTP, s": "http_p50_s", "in process, s": "local_p50_s"}
        parts.append(_table([share], columns | SHARES))
    if batches := found.get("batching"):
        columns = {"batch size": "batch_size", "count": "count", "requests/s": "requests_per_s"}
        parts.append(_table(batches["rows"], columns | PERCENTILES))
    wrong = _wrong(found)
    parts.append("\n".join([f"{len(wrong)} wrong", *(f"- {text}" for text in wrong)]))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    """Return a Markdown table. `columns` maps headings to the keys of a row."""
    values = [[row[name] for name in columns.values()] for row in rows]
    cells = [[f"{value:.3f}" if type(value) is float else str(value) for value in line] for line in values]
    return markdown_table([*columns], cells)


def _wrong(found: dict[str, Any]) -> list[str]:
    return [text for part in found.values() if isinstance(part, dict) for text in part["wrong"]]


def main() -> int:
    """Run the parts that the command line names, write load.json and load.md, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description="Send mixed requests to a server.")
    parser.add_argument("--engine", choices=("torchserve", "ray"), default="torchserve", help="(%(default)s)")
    parser.add_argument("--replicas", type=int, default=2, help="worker processes on Ray Serve (%(default)s)")
    parser.add_argument("--requests", type=int, default=320, help="requests of the load (%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="clients at once (%(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="steps of a request of the load (%(default)s)")
    parser.add_argument("--share-requests", type=int, default=32, help="requests for TorchServe's share (%(default)s)")
    parser.add_argument("--batching", action="store_true", help="also measure batch sizes")
    parser.add_argument("--batch-requests", type=int, default=48, help="requests at each batch size (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order and the bad requests (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/load"), help="folder for load.json and load.md")
    options = parser.parse_args()
    prompts = read_prompts(HELD_OUT_PROMPTS, PROMPTS)
    requests = mixed(valid_requests(prompts, options.steps), options.requests, BAD_SHARE, options.seed)
    local = LocalPipeline(EMBEDDED_PAIR)
    found: dict[str, Any] = {"machine": machine()}
    store = options.out / "model_store"
    if options.engine == "ray":
        found["load"] = load_on_ray(store, local, requests, options.clients, options.replicas)
    else:
        with served(EMBEDDED_PAIR, store) as server:
            found["load"] = load(server, local, requests, options.clients)
            full = {"prompt": prompts[0], "seed": 0, "num_inference_steps": 28}
            found["own_share"] = own_share(server, local, full, options.share_requests)
            if options.batching:
                batch = (prompts[0], options.steps, options.clients, options.batch_requests)
                found["batching"] = batching(server, local, *batch)
    text = markdown(found)
    (options.out / "load.json").write_text(json.dumps(found, indent=1))
    (options.out / "load.md").write_text(text)
    sys.stdout.write(text)
    return 1 if _wrong(found) else 0


if __name__ == "__main__":
    sys.exit(main())
