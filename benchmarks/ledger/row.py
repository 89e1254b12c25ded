"""What goes into the ledger: a published row, how willfit expresses it, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from benchmarks.ledger.reading import Reading
from willfit.estimator.uncertainty import Counter, Uncertainty, Work, usual
from willfit.results import Estimate, Level, Verdict
from willfit.scenario import Scenario, Stack
from willfit.scenario.stack import TESTED

PublishedRow = Mapping[str, Any]
"""One line of a ``.jsonl`` file in the form of ``shared/measured``."""

Generation = Literal["today", "older", "unrecorded", "other"]
"""transformers from 4.50 on, before it, either (not said), or another stack than Hugging Face's."""


@dataclass(frozen=True, kw_only=True)
class Expressed:
    """A measurement as a scenario and the amount to read off its estimate.

    Where settings are unknown, `scenario` has the likeliest value (the documented default, the
    release of the source's date) and the ends are estimated as well: the row is judged against
    what lies between.
    """

    kind: str
    """What was measured, in the source's words."""
    scenario: Scenario
    reading: Reading | Callable[[Estimate], int]
    unknown_bytes: tuple[int, int] = (0, 0)
    """Smallest and largest effect of a named unknown that no setting expresses."""
    low_scenario: Scenario | None = None
    """The scenario with every named unknown at its small end; None where nothing is unknown."""
    high_scenario: Scenario | None = None
    card_known: bool = True
    """Whether the source names the card, so that its run says something about a verdict."""


@dataclass(frozen=True, kw_only=True)
class RanOut:
    """A run that is known to have ended in an out-of-memory error, on a card of known size."""

    scenario: Scenario
    low_scenario: Scenario | None = None
    high_scenario: Scenario | None = None
    kind: str = "out of memory"


@dataclass(frozen=True, kw_only=True)
class NotExpressed:
    """A measurement that cannot be expressed, and why."""

    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A measurement of less than a job: a single kernel, or a stream of allocations replayed."""

    kind: str
    num_bytes: Callable[[], int]
    """What the counter would have read; raises `WillfitError` where it cannot be computed."""


Result = Expressed | Computed | RanOut | NotExpressed

Importer = Callable[[PublishedRow], Iterator[Result]]
"""Maps a published row to one result per measured kind; guesses nothing."""


@dataclass(frozen=True, kw_only=True)
class Miss:
    """Why rows of a source are off: a mechanism, or the source's own fault with the evidence."""

    why: str
    ids: tuple[str, ...] = ()
    """Row ids (``hf_docs:3``); () is every row of the source that `where` admits."""
    where: Callable[[PublishedRow], bool] | None = None
    kind: str = ""
    """Start of the measured kind; "" is every kind."""
    level: str = ""
    """Level it is said of; "" is both."""

    def explains(self, row: PublishedRow, kind: str, level: str) -> bool:
        """Whether it is said of this measurement."""
        return (
            (not self.ids or row["id"] in self.ids)
            and kind.startswith(self.kind)
            and self.level in ("", level)
            and self._admits(row)
        )

    def _admits(self, row: PublishedRow) -> bool:
        return self.where is None or _holds(self.where, row)


@dataclass(frozen=True, kw_only=True)
class About:
    """What the page says of a source: each importer module has one, ``ABOUT``."""

    title: str
    """What it is, in a few words."""
    stack: Literal["hf", "other"] = "hf"
    """Whether plain transformers (with peft, accelerate, bitsandbytes, DeepSpeed) ran."""
    unknowns: Mapping[str, str] = field(default_factory=dict)
    """Each setting that is not recorded and how it was treated."""
    misses: tuple[Miss, ...] = ()
    """What is off by more than 10 %, and why."""
    notes: tuple[str, ...] = ()
    """Findings: what was off, and the mechanism that was found."""
    apart: Callable[[PublishedRow, str], bool] | None = None
    """Rows and kinds that are shown, and that no printed range is made of, however near they lie:
    counters read between steps, where `estimate` prints peaks, and what the row records of its run,
    a pool that an earlier phase had filled or torch 1.
    """

    def is_apart(self, row: PublishedRow, kind: str) -> bool:
        """Whether no range is made of this measurement."""
        return self.apart is not None and _holds(self.apart, row, kind)


def _holds(condition: Callable[..., bool], *of: object) -> bool:
    """Not where a row in the project's own form lacks the setting that is asked for."""
    try:
        return condition(*of)
    except (KeyError, TypeError):
        return False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A measurement beside its estimate."""

    id: str
    source: str
    tier: str
    task: str
    level: Level
    kind: str
    measured_bytes: int
    estimated_bytes: int | None
    unknown_low_bytes: int | None
    """The estimate with every named unknown at its small end."""
    unknown_high_bytes: int | None
    reason: str | None
    """Why there is no estimate; None where there is one."""
    generation: Generation = "unrecorded"
    experiment: str = ""
    """Equal for repeats of the same experiment: model, settings and counter, not the date."""
    work: Work | None = None
    """Kind of work by which uncertainty is kept; None for less than a job."""
    counter: Counter | None = None
    """``reserved`` for what has cached memory in it."""
    wider: float = 1
    """Factor of a range that no measurement of that card's kernels supports."""
    why: str | None = None
    """What the importer says about its error, where it says something."""
    apart: bool = False
    """Whether no range is made of it (`About.apart`)."""

    @property
    def error(self) -> float | None:
        """(nearest bound − measured) / measured; 0 inside the unknowns' range; None without one."""
        if self.estimated_bytes is None or self.measured_bytes <= 0:
            return None
        low = self.estimated_bytes if self.unknown_low_bytes is None else self.unknown_low_bytes
        high = self.estimated_bytes if self.unknown_high_bytes is None else self.unknown_high_bytes
        nearest = min(max(self.measured_bytes, low), high)
        return (nearest - self.measured_bytes) / self.measured_bytes

    @property
    def alone(self) -> float | None:
        """(estimate − measured) / measured, the likeliest scenario by itself."""
        if self.estimated_bytes is None or self.measured_bytes <= 0:
            return None
        return (self.estimated_bytes - self.measured_bytes) / self.measured_bytes

    @property
    def low_bytes(self) -> int | None:
        """The small end, less willfit's own uncertainty: what `range` prints."""
        if self.unknown_low_bytes is None:
            return None
        return self.unknown_low_bytes - round((self.estimated_bytes or 0) * self._usual.below)

    @property
    def high_bytes(self) -> int | None:
        """The large end, and willfit's own uncertainty."""
        if self.unknown_high_bytes is None:
            return None
        return self.unknown_high_bytes + round((self.estimated_bytes or 0) * self._usual.above)

    @property
    def _usual(self) -> Uncertainty:
        """That of its kind of work; of less than a job, a training step's."""
        found = usual(self.level, self.work or "training", self.counter or "allocated")
        return replace(found, below=found.below * self.wider, above=found.above * self.wider)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What an estimate asks of the fullest GPU, without its uncertainty."""

    low_bytes: int
    high_bytes: int
    tensor_bytes: int
    """What the uncertainty is a part of."""
    budget_bytes: int
    level: Level
    work: Work
    wider: float = 1
    refused: bool = False

    @property
    def verdict(self) -> Verdict:
        """By today's uncertainty, as `GpuEstimate.verdict`."""
        usually = usual(self.level, self.work)
        if self.refused:
            return "does_not_fit"
        if self.high_bytes + self.tensor_bytes * usually.above * self.wider <= self.budget_bytes:
            return "fits"
        low = self.low_bytes - self.tensor_bytes * usually.below * self.wider
        return "tight" if low <= self.budget_bytes else "does_not_fit"


@dataclass(frozen=True, kw_only=True)
class Known:
    """A run whose end is known, on a card of known size, beside willfit's verdict."""

    id: str
    source: str
    level: Level
    gpu: str
    sm: tuple[int, ...]
    """Compute capabilities of the cards: (75,) for a T4."""
    ran_out: bool
    demands: tuple[Demand, ...] = ()
    """Of the likeliest scenario and of the ends; () where there is no estimate."""
    reason: str | None = None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """As willfit would print them, with its uncertainty."""
        return tuple(demand.verdict for demand in self.demands)

    @property
    def is_wrong_fits(self) -> bool:
        """It ran out, and every estimate says that it fits."""
        return self.ran_out and bool(self.verdicts) and set(self.verdicts) == {"fits"}

    @property
    def is_wrong_does_not_fit(self) -> bool:
        """It ran, and every estimate says that it does not."""
        return not self.ran_out and bool(self.verdicts) and set(self.verdicts) == {"does_not_fit"}


EARLIER: Final = Stack(versions={**TESTED, "transformers": "4.37.2", "bitsandbytes": "0.43.1"})
"""Releases from before the great savings (tables of cos and sin in every layer, float32 logits of
the whole prompt, inputs kept by 4-bit products): one end where a source of 2024 does not record
what it ran."""
