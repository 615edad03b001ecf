"""Sends the requests in their order, in a closed loop or at a fixed arrival rate, and keeps the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from hybridstitch.compare.endpoints.spec import Answer, Endpoint
from hybridstitch.compare.run.folder import Folder
from hybridstitch.compare.run.order import Block, Cell, ordered_blocks
from hybridstitch.errors import InvalidInput, Problem, raise_problems

BLOCK_AT_RATE = 8
MOST_AT_ONCE = 256
MOST_PAUSE = 60.0

Decided = Callable[[], bool]
"""Returns whether the answers so far decide the comparison."""


@dataclass(frozen=True)
class Load:
    """How requests are sent. Only one side has requests in flight at a time, so neither slows the other.

    Attributes:
        concurrency: Requests in flight in a closed loop, 1 to 256, default 1.
        rate: Instead of a closed loop: requests a second, sent whether or not earlier ones were answered. Latency
            then counts from the moment that a request was due. Above 0 and at most 1000.
        block: Requests to one side before the other side's turn, 1 to 256. Default: `concurrency`, or 8 with `rate`.
        pause: Seconds before each block, 0 to 60, default 0. If both sides share a machine, threads of the side
            before may still use its processor.
    """

    concurrency: int = 1
    rate: float | None = None
    block: int | None = None
    pause: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.concurrency <= MOST_AT_ONCE:
            problems.append(Problem("concurrency", f"1 to {MOST_AT_ONCE}", self.concurrency))
        if self.rate is not None and not 0 < self.rate <= 1000:
            problems.append(Problem("rate", "requests a second, above 0 and at most 1000", self.rate))
        if self.rate is not None and self.concurrency != 1:
            problems.append(Problem("rate", "no concurrency beside it", self.concurrency))
        if self.block is not None and not 1 <= self.block <= MOST_AT_ONCE:
            problems.append(Problem("block", f"1 to {MOST_AT_ONCE}", self.block))
        if not 0 <= self.pause <= MOST_PAUSE:
            problems.append(Problem("pause", f"0 to {MOST_PAUSE:g} seconds", self.pause))
        raise_problems(problems)

    @property
    def block_size(self) -> int:
        """Cells of a block."""
        return self.block or (BLOCK_AT_RATE if self.rate else self.concurrency)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "block": self.block_size}


class Run:
    """One process that sends the requests of a comparison to two warm endpoints, given by side."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        prompts: list[str],
        seeds: list[int],
        folder: Folder,
        load: Load,
        order_seed: int = 0,
    ):
        self.endpoints, self.prompts, self.seeds = endpoints, prompts, seeds
        self.folder, self.load, self.order_seed = folder, load, order_seed

    def missing(self) -> list[Block]:
        """Return the blocks that are still to be sent.

        A sample with one answer is requested from both sides again: latencies are comparable only if they were
        measured within the same minutes.
        """
        done = self.folder.complete()
        return ordered_blocks(len(self.prompts), self.seeds, self.load.block_size, self.order_seed, done)

    def go(self, described: Mapping[str, Any], decided: Decided | None = None) -> None:
        """Send every missing request, or stop once the comparison is decided.

        Args:
            described: Description of this process, for the report.
            decided: Called after both sides have answered a block; True ends the run. None never ends it early.
        """
        blocks = self.missing()
        told = {side: endpoint.describe() for side, endpoint in self.endpoints.items()}
        session = self.folder.begin_session({**described, "endpoints": told})
        with tqdm(total=sum(len(block.cells) for block in blocks), desc="requests", disable=None) as progress:
            for number, block in enumerate(blocks):
                for cell, answer, started in self._send(block):
                    self.folder.add(block.side, cell, answer, started, session)
                    progress.update()
                if decided and number % 2 and decided():
                    return

    def _send(self, block: Block) -> Iterator[tuple[Cell, Answer, float]]:
        time.sleep(self.load.pause)
        if self.load.rate is None and self.load.concurrency == 1:
            for cell in block.cells:
                yield cell, *self._ask(block.side, cell)
            return
        threads = len(block.cells) if self.load.rate else self.load.concurrency
        with ThreadPoolExecutor(threads) as pool:
            due = time.perf_counter()
            futures: dict[Future[tuple[Answer, float]], Cell] = {}
            for number, cell in enumerate(block.cells):
                at = due + number / self.load.rate if self.load.rate else None
                futures[pool.submit(self._ask, block.side, cell, at)] = cell
            for future in as_completed(futures):
                yield futures[future], *future.result()

    def _ask(self, side: str, cell: Cell, due: float | None = None) -> tuple[Answer, float]:
        """Return the answer and when its request was sent. due: On `perf_counter`; a delay counts as latency."""
        late = 0.0
        if due is not None:
            time.sleep(max(0.0, due - time.perf_counter()))
            late = max(0.0, time.perf_counter() - due)
        started = time.time()
        answer = self.endpoints[side].ask(self.prompts[cell[0]], cell[1])
        return Answer(**{**vars(answer), "seconds": answer.seconds + late}), started


def check_seeds(seeds: list[int]) -> None:
    """Raise InvalidInput unless these are different seeds that a request can name."""
    wrong = [seed for seed in seeds if not 0 <= seed < 2**53]
    if wrong or len(set(seeds)) != len(seeds) or not seeds:
        raise InvalidInput([Problem("seeds", "different whole numbers of 0 to 2^53-1", seeds)])
