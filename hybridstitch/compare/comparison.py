"""A whole comparison: everything that is declared before the run, the run itself, and its report."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hybridstitch
from hybridstitch.compare.decision import Margins
from hybridstitch.compare.endpoints import Credentials, Endpoint, Spec, parse_endpoint, without_secrets
from hybridstitch.compare.folder import Folder
from hybridstitch.compare.measured import MeasuredPair, Measurer, declared
from hybridstitch.compare.metrics import Measures
from hybridstitch.compare.plan import SIDES, Cell, ordered_cells
from hybridstitch.compare.report import write_report
from hybridstitch.compare.run import Load, Run, check_seeds
from hybridstitch.compare.sequential import Progress, follow
from hybridstitch.compare.warmup import open_warm
from hybridstitch.errors import InvalidInput, Problem, raise_if
from hybridstitch.texts import text_problem

MOST_WARMUP = 100


@dataclass(frozen=True)
class Comparison:
    """What is compared, and what the candidate must show.

    a, b: endpoint strings, see `parse_endpoint`; b is the candidate. prompts, prompts_from: texts, and their file.
    warmup: requests to each side before any that counts. order_seed: of the order. timeout: seconds for an answer.
    limits, margin, speedup, alpha: see `declared`. until_decided: stop as soon as the sequential tests have an answer.
    Raises InvalidInput with every problem.
    """

    a: str
    b: str
    prompts: list[str]
    prompts_from: str
    seeds: list[int]
    load: Load = field(default_factory=Load)
    warmup: int = 2
    order_seed: int = 0
    timeout: float = 600
    measures: Measures = field(default_factory=Measures)
    limits: Mapping[str, float] = field(default_factory=dict)
    margin: float | None = None
    speedup: float = 1.0
    alpha: float = 0.05
    until_decided: bool = False

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        checks: list[Callable[[], object]] = [lambda: self.specs, lambda: self.margins, lambda: check_seeds(self.seeds)]
        for check in checks:
            try:
                check()
            except InvalidInput as error:
                problems += error.problems
        texts = [text_problem(f"prompts[{number}]", prompt) for number, prompt in enumerate(self.prompts)]
        problems += [problem for problem in texts if problem] or (
            [] if self.prompts else [Problem("prompts", "at least one", self.prompts)]
        )
        if not 0 <= self.warmup <= MOST_WARMUP:
            problems.append(Problem("warmup", f"0 to {MOST_WARMUP}", self.warmup))
        raise_if(problems)

    @cached_property
    def specs(self) -> dict[str, Spec]:
        """The endpoints by side."""
        found: dict[str, Spec] = {}
        problems: list[Problem] = []
        for side in SIDES:
            try:
                found[side] = parse_endpoint(getattr(self, side), side)
            except InvalidInput as error:
                problems += error.problems
        raise_if(problems)
        return found

    @cached_property
    def margins(self) -> Margins:
        """What the verdict is judged by."""
        return declared(self.measures, self.limits, self.margin, self.speedup, self.alpha)

    @property
    def cells(self) -> list[Cell]:
        """All pairs to be, in their order."""
        return ordered_cells(len(self.prompts), self.seeds, self.order_seed)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, from which `from_dict` makes it again, but for values of queries: they may be keys."""
        sides = {side: without_secrets(getattr(self, side)) for side in SIDES}
        return {**asdict(self), **sides, "load": self.load.to_dict(), "measures": asdict(self.measures)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """Of what `to_dict` gave. Raises InvalidInput for anything else."""
        try:
            return cls(**{**values, "load": Load(**values["load"]), "measures": Measures(**values["measures"])})
        except (TypeError, KeyError) as error:
            raise InvalidInput([Problem("folder", "one of a comparison by this version", str(error))]) from error

    def run(
        self, out: Path, tokens: Mapping[str, str | None], headers: Mapping[str, Mapping[str, str]] | None = None
    ) -> dict[str, Any]:
        """Ask for what is missing in the folder and write the report; its JSON form.

        tokens, headers: by side; they are sent to their endpoint and kept nowhere. Raises InvalidInput for a folder of
        another comparison, for endpoints that do not answer the warm-up, and for measures that fail on its pictures.
        """
        folder = Folder(out)
        with folder.opened(self.to_dict()):
            measurer = Measurer(folder, self.prompts, self.measures)

            def decided() -> bool:
                return self.until_decided and self.progress(measurer.pairs(self.cells)).finished

            if not (folder.complete().issuperset(self.cells) or decided()):
                endpoints = self._endpoints(Credentials(tokens, headers or {}))
                run = Run(endpoints, self.prompts, self.seeds, folder, self.load, self.order_seed)
                run.go(session(), decided if self.until_decided else None)
        return self.report(folder, measurer)

    def report(self, folder: Folder, measurer: Measurer | None = None) -> dict[str, Any]:
        """Write report.html, report.json and pairs.csv from what lies in the folder; the JSON form."""
        measurer = measurer or Measurer(folder, self.prompts, self.measures)
        return write_report(self.from_dict(self.to_dict()), folder, measurer.pairs(self.cells))

    def _endpoints(self, credentials: Credentials) -> dict[str, Endpoint]:
        """Both sides, warmed up, once the measures have had a try at their pictures."""
        found, pictures = open_warm(self.specs, credentials, self.timeout, self.prompts[0], self.seeds[0], self.warmup)
        self.measures.check()
        if pictures:
            self.measures.try_out(pictures["a"], pictures["b"], self.prompts[0])
        return found

    def progress(self, pairs: Sequence[MeasuredPair]) -> Progress:
        """Where a run until it is decided stands."""
        order = list(dict.fromkeys(prompt for prompt, _ in self.cells))
        return follow([pair.judged() for pair in pairs], order, len(self.seeds), self.margins)


def session() -> dict[str, Any]:
    """What this process is, for the report."""
    from hybridstitch.bench.table import machine

    return {
        "begun": time.time(),
        "machine": machine(),
        "versions": {
            "hybridstitch": hybridstitch.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "pillow", "requests", "torch")},
        },
    }
