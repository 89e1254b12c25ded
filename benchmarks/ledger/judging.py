"""One published row beside its estimates: every measured kind, and the verdict on the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast, get_args

from benchmarks.ledger.amounts import Amounts, demands, estimated
from benchmarks.ledger.compact import is_compact, results_of
from benchmarks.ledger.importers import about, importer
from benchmarks.ledger.printed import counter_of, uncertainty_of
from benchmarks.ledger.row import (
    About,
    Computed,
    Demand,
    Expressed,
    Generation,
    Known,
    NotExpressed,
    Outcome,
    PublishedRow,
    RanOut,
    Result,
)
from willfit.errors import WillfitError
from willfit.estimator.uncertainty import Counter, Uncertainty
from willfit.results import Level
from willfit.scenario.stack import release

_TODAY: Final = (4, 50)
"""transformers from here on is of today's generation."""
_NOT_THE_EXPERIMENT: Final = frozenset(
    {"id", "measured", "repo_path", "notes", "created_at", "versions", "quality", "oom", "tier"}
)
"""Fields of a row in which repeats of an experiment may differ."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of a row."""

    outcomes: tuple[Outcome, ...]
    known: tuple[Known, ...] = ()


def source_of(row: PublishedRow) -> str:
    """Name of the row's file, which its id begins with; ``source`` may be more particular."""
    return str(row.get("id", "")).partition(":")[0]


def judge(row: PublishedRow, level: Level = "formula") -> Judged:
    """One outcome per measured kind of a row, and one verdict where its end is known."""
    measured = measured_of(row)
    outcomes: list[Outcome] = []
    known: list[Known] = []
    for result in expressed(row, level):
        if isinstance(result, RanOut):
            known.append(_known(row, result, level))
        elif result.kind in measured:
            outcomes.append(_outcome(row, result, level, measured[result.kind]))
            first = not known and isinstance(result, Expressed) and result.card_known
            if first and isinstance(result, Expressed) and outcomes[-1].reason is None:
                known.append(_known(row, result, level))
    return Judged(outcomes=tuple(outcomes), known=tuple(known))


def expressed(row: PublishedRow, level: Level) -> list[Result]:
    """The importer's results; a model that no source knows offline is a reason, not an end."""
    express = importer(source_of(row), level)
    if is_compact(row):
        express = partial(results_of, level=level)  # type: ignore[assignment]
    if express is None:
        reason = "no importer reads this source"
        return [NotExpressed(kind=kind, reason=reason) for kind in measured_of(row)]
    try:
        return list(express(row))
    except Exception as error:
        return [NotExpressed(kind=kind, reason=_reason(error)) for kind in measured_of(row)]


def _reason(error: Exception) -> str:
    """What a row raised, whatever it was: one row must not end all others."""
    if isinstance(error, WillfitError):
        return str(error)
    return f"fails with {type(error).__name__}: {str(error)[:200]}"


def measured_of(row: PublishedRow) -> dict[str, int]:
    """Bytes by kind; ratios, times and cells without a figure are left out."""
    entries = [m for m in row.get("measured") or () if isinstance(m, Mapping)]
    return {
        str(m.get("kind")): round(m["bytes"])
        for m in entries
        if isinstance(m.get("bytes"), int | float) and m["bytes"] > 0
    }


def _outcome(
    row: PublishedRow, result: Expressed | Computed | NotExpressed, level: Level, measured: int
) -> Outcome:
    amounts: Amounts | None = None
    uncertain: Uncertainty | None = None
    counter: Counter | None = None
    reason = None
    try:
        if isinstance(result, Expressed):
            amounts = estimated(result, level)
            counter = counter_of(result)
            uncertain = uncertainty_of(result, level)
        elif isinstance(result, Computed):
            amounts = Amounts(*[result.num_bytes()] * 3)
        else:
            reason = result.reason
    except Exception as error:
        reason = _reason(error)
    return Outcome(
        id=row["id"],
        source=source_of(row),
        tier=row["tier"],
        task=row["task"],
        level=level,
        kind=result.kind,
        measured_bytes=measured,
        estimated_bytes=amounts.nominal if amounts else None,
        unknown_low_bytes=amounts.low if amounts else None,
        unknown_high_bytes=amounts.high if amounts else None,
        reason=reason,
        generation=generation_of(row),
        experiment=_experiment(row, result.kind),
        why=_why(row, result.kind, level),
        apart=_is_apart(row, result.kind),
        work=uncertain.work if uncertain else None,
        counter=counter,
        wider=uncertain.wider if uncertain else 1,
    )


def _known(row: PublishedRow, result: Expressed | RanOut, level: Level) -> Known:
    reason = None
    found: tuple[Demand, ...] = ()
    try:
        found = demands(result, level)
    except Exception as error:
        reason = _reason(error)
    machine = result.scenario.machine
    return Known(
        id=row["id"],
        source=source_of(row),
        level=level,
        gpu=", ".join(sorted({gpu.name for gpu in machine.gpus})) if machine else "",
        sm=tuple(sorted({gpu.sm for gpu in machine.gpus})) if machine else (),
        ran_out=isinstance(result, RanOut),
        demands=found,
        reason=reason,
    )


def generation_of(row: PublishedRow) -> Generation:
    """By the release that the row records, and the source's stack."""
    if row.get("generation") in get_args(Generation):
        return cast("Generation", row["generation"])
    said = _about(row)
    if said is None:
        return "unrecorded"
    if said.stack == "other":
        return "other"
    found = _versions(row)
    version = found.get("transformers") or found.get("transformers-version") or ""
    numbers = release(str(version).lstrip("~>=v"))
    if not numbers:
        return "unrecorded"
    return "today" if numbers >= _TODAY else "older"


def _versions(row: PublishedRow) -> Mapping[str, Any]:
    """Recorded ones; rows that we measured have them in their measurement."""
    found = row.get("versions") or (row.get("measurement") or {}).get("versions") or {}
    return dict(found) if isinstance(found, Mapping) else dict(found or ())


def _experiment(row: PublishedRow, kind: str) -> str:
    settings = {key: value for key, value in row.items() if key not in _NOT_THE_EXPERIMENT}
    return json.dumps([kind, settings], sort_keys=True, default=str)


def _is_apart(row: PublishedRow, kind: str) -> bool:
    said = _about(row)
    return said is not None and said.is_apart(row, kind)


def _why(row: PublishedRow, kind: str, level: str) -> str | None:
    said = _about(row)
    misses = said.misses if said is not None else ()
    return next((miss.why for miss in misses if miss.explains(row, kind, level)), None)


def _about(row: PublishedRow) -> About | None:
    """What the page says of the row's source; None for one without an importer."""
    try:
        return about(source_of(row))
    except KeyError:
        return None
