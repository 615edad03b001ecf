"""Measured samples from the answers on disk. The same answers always give the same values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hybridstitch.compare.measures import BOUNDS, LOWER_IS_NEARER, NAMES, MeasureError, Measures, mask_of, read_picture
from hybridstitch.compare.run.folder import Folder, Row
from hybridstitch.compare.run.order import Cell
from hybridstitch.compare.verdict.fixed import Fidelity, Margins, Quality, Sample
from hybridstitch.errors import InvalidInput, Problem

DEFAULT_LIMITS = {"psnr_db": 30.0, "ssim": 0.95}
"""Limits of fidelity if a comparison declares none. Pictures within them are hard to tell apart."""


@dataclass(frozen=True)
class MeasuredSample:
    """Both answers to one prompt and seed, with their measures.

    Attributes:
        prompt: Number of the prompt.
        text: The prompt.
        seed: Seed of both pictures.
        a, b: The answers.
        fidelity: Measures by name, see `measures.FIDELITY`; empty if a side failed or the sizes differ.
        quality_a, quality_b: Quality of each picture; None if it is not measured.
        identical: Whether both pictures have the same pixels.
        note: If both sides answered, why there is no fidelity.
        unmeasured: Errors of the operator's functions, under `distance` or `quality`.
    """

    prompt: int
    text: str
    seed: int
    a: Row
    b: Row
    fidelity: Mapping[str, float]
    quality_a: float | None = None
    quality_b: float | None = None
    identical: bool = False
    note: str | None = None
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    @property
    def answered(self) -> bool:
        """Whether both sides sent a picture."""
        return self.a.error is None and self.b.error is None

    def judged(self) -> Sample:
        """Return the sample in the form that the verdict takes."""
        measures = {name: value for name, value in self.fidelity.items() if not math.isnan(value)}
        if self.quality_a is not None and self.quality_b is not None:
            measures["quality"] = self.quality_b - self.quality_a
        first, second = (row.seconds if row.error is None else math.nan for row in (self.a, self.b))
        return Sample(self.prompt, self.seed, first, second, measures, self.identical, tuple(self.unmeasured))


class Measurer:
    """Measures the samples of a folder, each once."""

    def __init__(self, folder: Folder, prompts: list[str], measures: Measures):
        self.folder, self.prompts, self.measures = folder, prompts, measures
        self._by_cell: dict[Cell, tuple[float, MeasuredSample]] = {}

    def samples(self, cells: Iterable[Cell]) -> list[MeasuredSample]:
        """Return the samples of these cells that both sides have answered, in this order."""
        rows = self.folder.rows()
        found = []
        for cell in cells:
            a, b = rows.get(("a", cell)), rows.get(("b", cell))
            if a and b:
                known = self._by_cell.get(cell)
                if known is None or known[0] != a.started + b.started:
                    known = self._by_cell[cell] = (a.started + b.started, self._measure(a, b))
                found.append(known[1])
        return found

    def _measure(self, a: Row, b: Row) -> MeasuredSample:
        text = self.prompts[a.prompt]
        if a.picture is None or b.picture is None:
            return MeasuredSample(a.prompt, text, a.seed, a, b, {})
        reference, picture = (read_picture(self.folder.path / name) for name in (a.picture, b.picture))
        note: str | None = None
        fidelity: dict[str, float] = {}
        unmeasured: dict[str, str] = {}
        identical = False

        def attempt(name: str, whose: str, measure: Callable[[], float | None]) -> float | None:
            try:
                return measure()
            except MeasureError as error:
                unmeasured.setdefault(name, f"{whose}: {error}")
                return None

        if picture.shape == reference.shape:
            identical = bool(np.array_equal(picture, reference))
            mask = mask_of(b.report, picture.shape[:2])
            if mask is None:
                mask = mask_of(a.report, picture.shape[:2])
            fidelity = self.measures.fidelity(picture, reference, mask)
            far = attempt("distance", "both pictures", lambda: self.measures.how_far(picture, reference))
            fidelity |= {} if far is None else {"distance": far}
        else:
            sizes = [f"{each.shape[1]}x{each.shape[0]}" for each in (reference, picture)]
            note = f"A's picture has {sizes[0]} pixels, B's {sizes[1]}: no fidelity"
        first = attempt("quality", "A's picture", lambda: self.measures.on_its_own(reference, text))
        second = attempt("quality", "B's picture", lambda: self.measures.on_its_own(picture, text))
        return MeasuredSample(a.prompt, text, a.seed, a, b, fidelity, first, second, identical, note, unmeasured)


def declared(
    measures: Measures, limits: Mapping[str, float], margin: float | None, speedup: float, alpha: float
) -> Margins:
    """Return the margins of a comparison. Measures without a limit are reported, not judged.

    Args:
        measures: The measures of the comparison.
        limits: Limits of fidelity by measure: a mean must be above its limit, a distance below it. Without limits and
            margin, `DEFAULT_LIMITS` apply.
        margin: How much worse B's mean quality may be, above 0; None: quality is not judged.
        speedup: B must be more than this many times as fast as A.
        alpha: Chance of a wrong claim.

    Raises:
        InvalidInput: A limit is for something that is not measured, or a number is out of range.
    """
    known = [name for name in NAMES if name != "quality" and (name != "distance" or measures.distance)]
    problems = [Problem(f"limit {name}", "one of: " + ", ".join(known), name) for name in limits if name not in known]
    problems += [
        Problem(f"limit {name}", "a number", value) for name, value in limits.items() if not math.isfinite(value)
    ]
    if margin is not None and not measures.quality:
        problems.append(Problem("margin", "a measure of quality beside it", margin))
    if problems:
        raise InvalidInput(problems)
    asked = limits or ({} if margin is not None else DEFAULT_LIMITS)
    fidelity = {name: Fidelity(asked.get(name), name in LOWER_IS_NEARER, BOUNDS.get(name, 15.0)) for name in known}
    quality = {"quality": Quality(margin, BOUNDS["quality"])} if measures.quality else {}
    return Margins(quality, fidelity, min_speedup=speedup, alpha=alpha)
