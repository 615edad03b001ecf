"""The settings of a comparison, which are declared before its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from hybridstitch.base.texts import text_problem
from hybridstitch.compare.endpoints.spec import Spec, parse_endpoint, without_secrets
from hybridstitch.compare.measured import MeasuredSample, declared
from hybridstitch.compare.measures import Measures
from hybridstitch.compare.run.order import SIDES, Cell, ordered_cells
from hybridstitch.compare.run.run import Load, check_seeds
from hybridstitch.compare.verdict.fixed import Margins
from hybridstitch.compare.verdict.sequential import Progress, follow
from hybridstitch.errors import InvalidInput, Problem, raise_problems

MOST_WARMUP = 100


@dataclass(frozen=True)
class Comparison:
    """Two endpoints, the requests to them, and what the candidate must show.

    Creating one raises InvalidInput that names every wrong field.

    Attributes:
        a, b: Endpoint strings, see `parse_endpoint`; `b` is the candidate.
        prompts, prompts_from: The prompts and the file that they come from.
        seeds: Seeds of each prompt.
        load: How requests are sent.
        warmup: Warm-up requests to each side, 0 to 100, default 2.
        order_seed: Seed of the order.
        timeout: Seconds for one answer, default 600.
        measures: The measures beside PSNR and SSIM.
        limits, margin, speedup, alpha: See `declared`.
        until_decided: Whether to stop as soon as the sequential test has decided.
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
        raise_problems(problems)

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
        raise_problems(problems)
        return found

    @cached_property
    def margins(self) -> Margins:
        """The limits of the verdict."""
        return declared(self.measures, self.limits, self.margin, self.speedup, self.alpha)

    @property
    def cells(self) -> list[Cell]:
        """The prompts and seeds of all samples, in their order."""
        return ordered_cells(len(self.prompts), self.seeds, self.order_seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form for `from_dict`. Values in the queries of addresses are hidden: they may be secret."""
        sides = {side: without_secrets(getattr(self, side)) for side in SIDES}
        return {**asdict(self), **sides, "load": self.load.to_dict(), "measures": asdict(self.measures)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """Return the comparison that `to_dict` described. Raises InvalidInput for anything else."""
        try:
            return cls(**{**values, "load": Load(**values["load"]), "measures": Measures(**values["measures"])})
        except (TypeError, KeyError) as error:
            raise InvalidInput([Problem("folder", "one of a comparison by this version", str(error))]) from error

    def progress(self, samples: Sequence[MeasuredSample]) -> Progress:
        """The state of a run that stops once it is decided."""
        order = list(dict.fromkeys(prompt for prompt, _ in self.cells))
        return follow([sample.judged() for sample in samples], order, len(self.seeds), self.margins)
