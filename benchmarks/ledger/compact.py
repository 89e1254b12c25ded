"""Published rows in the project's own form: the scenario as willfit expresses it, and the figures.

A line of ``tests/data/measured/published/SOURCE.jsonl`` is a published row of fewer fields, with
``expressed``: for each level the scenarios (settings that are not the default) and which amount
each counter is held to. It is read by the same command as the source's own rows. What no
declared reading expresses (single kernels, a source's own rule) keeps the source's settings, less
its remarks, and goes through its importer again, which may then want a remark: the figures that
are recorded are those of the source's own rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from benchmarks.ledger.importers import importer
from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import Expressed, NotExpressed, PublishedRow, RanOut, Result
from willfit.comparing.typed import made
from willfit.devices import find_gpu
from willfit.errors import WillfitError
from willfit.identity import by_identity
from willfit.report.contract import plain
from willfit.results import Level
from willfit.scenario import Machine, ModelSpec, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED
from willfit.sources.heads import with_auto_class

FOLDER: Final = Path(__file__).parents[2] / "tests" / "data" / "measured" / "published"
LEVELS: Final[tuple[Level, ...]] = ("formula", "trace")
_KEPT: Final = ("id", "tier", "task", "repo_path", "model", "gpu", "n_gpu")
"""Fields that a compact row takes over: what was measured, on what, and where it is published."""
_DROPPED: Final = ("notes", "quality")
_HEADS: Final = (None, "AutoModel", "AutoModelForSequenceClassification", "AutoModelForMaskedLM")
_LABELS: Final = (None, 2, 3)


class _NotPlainError(Exception):
    """A result that no data expresses."""


def compact(row: PublishedRow, generation: str) -> dict[str, Any]:
    """A row of the project's own form."""
    measured = [{"kind": m["kind"], "bytes": m["bytes"]} for m in row.get("measured") or ()]
    source = str(row["id"]).partition(":")[0]
    scenarios: list[dict[str, Any]] = []
    try:
        levels = {
            level: [_written(result, scenarios) for result in _results(source, row, level)]
            for level in LEVELS
        }
    except (_NotPlainError, WillfitError):
        return {key: value for key, value in row.items() if key not in _DROPPED}
    same = levels["formula"] == levels["trace"]
    return {
        **{name: row[name] for name in _KEPT if name in row},
        "generation": generation,
        "measured": measured,
        "scenarios": scenarios,
        "expressed": {"formula": levels["formula"]} if same else levels,
    }


def _results(source: str, row: PublishedRow, level: Level) -> Iterator[Result]:
    express = importer(source, level)
    if express is None:
        raise _NotPlainError
    yield from express(row)


def is_compact(row: PublishedRow) -> bool:
    """Whether a row says itself how it is expressed."""
    return isinstance(row.get("expressed"), Mapping)


def results_of(row: PublishedRow, level: Level) -> list[Result]:
    """What a compact row says; raises `WillfitError` on one in another form."""
    expressed = row["expressed"]
    scenarios = [_scenario(entry) for entry in row["scenarios"]]
    return [_read(entry, scenarios) for entry in expressed.get(level, expressed["formula"])]


def _written(result: Result, scenarios: list[dict[str, Any]]) -> dict[str, Any]:
    if isinstance(result, NotExpressed):
        return {"kind": result.kind, "reason": result.reason}
    if not isinstance(result, (Expressed, RanOut)):
        raise _NotPlainError
    ends = {
        name: _index(scenario, scenarios)
        for name, scenario in (
            ("scenario", result.scenario),
            ("low", result.low_scenario),
            ("high", result.high_scenario),
        )
        if scenario is not None
    }
    if isinstance(result, RanOut):
        return {"kind": result.kind, "ran_out": True, **ends}
    if not isinstance(result.reading, Reading):
        raise _NotPlainError
    more: dict[str, Any] = {"reading": _changed(result.reading)}
    if any(result.unknown_bytes):
        more["unknown_bytes"] = list(result.unknown_bytes)
    if not result.card_known:
        more["card_known"] = False
    return {"kind": result.kind, **ends, **more}


def _read(entry: Mapping[str, Any], scenarios: Sequence[Scenario]) -> Result:
    if "scenario" not in entry:
        return NotExpressed(kind=entry["kind"], reason=entry["reason"])
    ends = {
        f"{name}_scenario" if name else "scenario": scenarios[entry[name or "scenario"]]
        for name in ("", "low", "high")
        if (name or "scenario") in entry
    }
    if entry.get("ran_out"):
        return RanOut(kind=entry["kind"], **ends)
    low, high = entry.get("unknown_bytes", (0, 0))
    return Expressed(
        kind=entry["kind"],
        reading=made(Reading, entry["reading"], "the reading"),
        unknown_bytes=(int(low), int(high)),
        card_known=entry.get("card_known", True),
        **ends,
    )


def _index(scenario: Scenario, scenarios: list[dict[str, Any]]) -> int:
    entry = _entry(scenario)
    if entry not in scenarios:
        if not _same(_scenario(json.loads(json.dumps(entry))), scenario):
            raise _NotPlainError
        scenarios.append(entry)
    return scenarios.index(entry)


def _same(one: Scenario, other: Scenario) -> bool:
    return (one.workload, one.machine, one.stack) == (other.workload, other.machine, other.stack)


def _entry(scenario: Scenario) -> dict[str, Any]:
    machine = scenario.machine
    if machine is not None and machine != Machine(gpus=machine.gpus):
        raise _NotPlainError
    versions = scenario.stack.versions
    entry: dict[str, Any] = {
        "model": _model_entry(scenario.model),
        "workload": _changed(scenario.workload),
        "gpus": [gpu.name for gpu in machine.gpus] if machine is not None else [],
        "versions": {name: v for name, v in versions.items() if TESTED.get(name) != v},
    }
    if scenario.stack.alloc_conf:
        entry["alloc_conf"] = scenario.stack.alloc_conf
    return entry


def _scenario(entry: Mapping[str, Any]) -> Scenario:
    gpus = tuple(find_gpu(name) for name in entry["gpus"])
    return Scenario(
        model=_model(json.dumps(entry["model"], sort_keys=True)),
        workload=made(Workload, entry["workload"], "the workload"),
        machine=Machine(gpus=gpus) if gpus else None,
        stack=Stack(
            versions={**TESTED, **entry["versions"]}, alloc_conf=entry.get("alloc_conf", "")
        ),
    )


@by_identity(1024)
def _model_entry(model: ModelSpec) -> dict[str, Any]:
    """By name, with its head where that is another's; else by its config."""
    name = model.id
    config = {"id": name, "config": dict(model.config)}
    entries: list[dict[str, Any]] = [{"id": name}, config]
    heads = [{"head": h, "labels": n} for h in _HEADS for n in _LABELS]
    entries += [{"id": name, **head} for head in heads]
    entries += [{**config, **head} for head in heads]
    for entry in entries:
        text = json.dumps(entry, sort_keys=True, default=str)
        try:
            if _model(text) == model:
                found: dict[str, Any] = json.loads(text)
                return found
        except WillfitError:
            continue
    raise _NotPlainError


@lru_cache(maxsize=256)
def _model(text: str) -> ModelSpec:
    entry = json.loads(text)
    given = entry.get("config")
    model = published_model(entry["id"]) if given is None else from_config(entry["id"], given)
    if "head" in entry:
        return with_auto_class(model, entry["head"], entry["labels"])
    return model


def _changed(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not their default, as JSON types."""
    found: dict[str, Any] = {}
    for field in fields(value):
        default = field.default
        if field.default_factory is not MISSING:
            default = field.default_factory()
        own = getattr(value, field.name)
        if own == default:
            continue
        nested = is_dataclass(own) and not isinstance(own, type) and default is not MISSING
        found[field.name] = _nested(own) if nested else plain(own)
    return found


def _nested(value: Any) -> Any:
    """Of a dataclass of settings its changes; what has no defaults (a dtype) as it is."""
    written = plain(value)
    return _changed(value) if isinstance(written, dict) else written


def write(rows: Iterable[tuple[PublishedRow, str]], folder: Path = FOLDER) -> None:
    """The folder's files anew, one per source."""
    files: dict[str, list[str]] = {}
    for row, generation in rows:
        line = json.dumps(compact(row, generation), separators=(",", ":"), default=str)
        files.setdefault(str(row["id"]).partition(":")[0], []).append(line)
    folder.mkdir(parents=True, exist_ok=True)
    for source, lines in files.items():
        (folder / f"{source}.jsonl").write_text("\n".join(lines) + "\n")
