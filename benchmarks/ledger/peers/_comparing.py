"""Published rows, other tools' figures for them, and willfit's own, one beside the other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TextIO

from benchmarks.ledger.judging import expressed, measured_of, source_of
from benchmarks.ledger.peers._answers import answer
from benchmarks.ledger.peers._asked import Asked, asked
from benchmarks.ledger.peers._peer import NotPredicted, Peer
from benchmarks.ledger.reading import Amount
from benchmarks.ledger.row import Expressed, Outcome, PublishedRow
from willfit.results import Level
from willfit.scenario import Scenario

SAMPLE_SHARE: Final = 10
"""A slow tool is asked about every tenth row of a source, in the order of the ids' hashes…"""
SAMPLE_MOST: Final = 3
"""… and about so many that it has a figure for, at most."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measurement beside one tool's figure, and willfit's errors for the same."""

    id: str
    source: str
    kind: str
    peer: str
    counter: Amount
    """Which counter was measured."""
    measured_bytes: int
    predicted_bytes: int | None
    low_bytes: int | None = None
    """The figure at the named unknowns' ends."""
    high_bytes: int | None = None
    reason: str | None = None
    """Why there is no figure; None where there is one."""
    formula_error: float | None = None
    """willfit's own (`Outcome.error`) on the same measurement; None where it was not asked."""
    trace_error: float | None = None

    @property
    def error(self) -> float | None:
        """(nearest bound − measured) / measured, as `Outcome.error` is for willfit."""
        if self.low_bytes is None or self.high_bytes is None:
            return None
        nearest = min(max(self.measured_bytes, self.low_bytes), self.high_bytes)
        return (nearest - self.measured_bytes) / self.measured_bytes


def compare(
    rows: Sequence[PublishedRow], peers: Sequence[Peer], progress: TextIO | None = None
) -> list[Comparison]:
    """Every tool beside every measurement that a tool can be held to.

    Of several counters of the same stretch of a run, the one that a tool counts nearest is taken,
    so that a stretch is one comparison. A slow tool is asked about a sample (`sampled`).
    """
    found: list[Comparison] = []
    made: Made = {}
    for peer in peers:
        asked_of = sampled(rows, peer, made) if peer.about.slow else rows
        for row in asked_of:
            found += _of_row(row, peer, made)
        if progress is not None:
            print(f"{peer.name}: {len(asked_of)} rows asked", file=progress, flush=True)
    return found


def beside(comparisons: Iterable[Comparison], outcomes: Iterable[Outcome]) -> list[Comparison]:
    """The same with willfit's errors on the same measurements, at the levels of its outcomes."""
    errors = {(o.id, o.kind, o.level): o.error for o in outcomes}
    return [
        replace(
            one,
            formula_error=errors.get((one.id, one.kind, "formula")),
            trace_error=errors.get((one.id, one.kind, "trace")),
        )
        for one in comparisons
    ]


Made = dict[tuple[int, Level], list[tuple[str, Asked]]]
"""Questions by the row object and the level, made once for all tools: kinds and what is asked."""


def sampled(
    rows: Sequence[PublishedRow], peer: Peer, made: Made | None = None
) -> list[PublishedRow]:
    """Of each source so many rows that the tool has a figure for; chosen by their ids alone.

    Rows are taken in the order of their ids' hashes until a tenth of the source, three at most and
    one at least, has a figure; rows for which it has none come along.
    """
    made = {} if made is None else made
    chosen: list[PublishedRow] = []
    by_source: dict[str, list[PublishedRow]] = {}
    for row in rows:
        by_source.setdefault(source_of(row), []).append(row)
    for members in by_source.values():
        wanted = min(math.ceil(len(members) / SAMPLE_SHARE), SAMPLE_MOST)
        for row in sorted(members, key=lambda row: _hash(str(row["id"]))):
            if wanted <= 0:
                break
            chosen.append(row)
            wanted -= any(one.predicted_bytes is not None for one in _of_row(row, peer, made))
    return chosen


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _of_row(row: PublishedRow, peer: Peer, made: Made) -> Iterator[Comparison]:
    """One comparison for each stretch of the run that was measured."""
    measured = measured_of(row)
    best: dict[tuple[str, ...], tuple[int, Asked, str]] = {}
    for kind, question in _questions(row, peer.about.level, made):
        if kind not in measured or not peer.predicts(question.counter):
            continue
        rank = peer.about.counters.index(question.counter)
        key = question.window
        if key not in best or rank < best[key][0]:
            best[key] = rank, question, kind
    for _, question, kind in best.values():
        yield _compared(row, peer, question, kind, measured[kind])


def _questions(row: PublishedRow, level: Level, made: Made) -> list[tuple[str, Asked]]:
    key = (id(row), level)
    if key not in made:
        results = (r for r in expressed(row, level) if isinstance(r, Expressed))
        made[key] = [(r.kind, question) for r in results if (question := asked(r)) is not None]
    return made[key]


def _compared(
    row: PublishedRow, peer: Peer, question: Asked, kind: str, measured: int
) -> Comparison:
    nominal = answer(peer, question.scenario)
    if isinstance(nominal, NotPredicted):
        return _none(row, peer, kind, measured, nominal.reason, question.counter)
    ends = [
        end
        for scenario in (question.low_scenario, question.high_scenario)
        if (end := _end(peer, scenario)) is not None
    ]
    more = question.plus_bytes
    return Comparison(
        id=str(row["id"]),
        source=source_of(row),
        kind=kind,
        peer=peer.name,
        counter=question.counter,
        measured_bytes=measured,
        predicted_bytes=nominal + more,
        low_bytes=min([nominal, *ends]) + more + question.unknown_bytes[0],
        high_bytes=max([nominal, *ends]) + more + question.unknown_bytes[1],
    )


def _end(peer: Peer, scenario: Scenario | None) -> int | None:
    found = None if scenario is None else answer(peer, scenario)
    return found if isinstance(found, int) else None


def _none(
    row: PublishedRow, peer: Peer, kind: str, measured: int, reason: str, counter: Amount
) -> Comparison:
    return Comparison(
        id=str(row["id"]),
        source=source_of(row),
        kind=kind,
        peer=peer.name,
        counter=counter,
        measured_bytes=measured,
        predicted_bytes=None,
        reason=reason,
    )
