"""Every row of a folder judged: several processes, what was judged before kept, progress said."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TextIO

from benchmarks.ledger.figures import subset
from benchmarks.ledger.importers import sources
from benchmarks.ledger.judging import Judged, judge, source_of
from benchmarks.ledger.row import Demand, Known, Outcome, PublishedRow
from willfit.installed import installed_versions
from willfit.live.rows import read_rows
from willfit.results import Level

_HERE: Final = Path(__file__).parent
_PACKAGE: Final = Path(__file__).parents[2] / "src" / "willfit"
_DECIDES: Final = (
    "allocator", "data", "devices", "estimator", "formulas", "meta", "scenario", "sources",
    "trace", "dtypes.py", "results.py", "units.py",
)  # fmt: skip
"""Parts of willfit that a number can depend on."""
_HOW: Final = (
    "amounts.py", "growth.py", "judging.py", "liger.py", "liger_worker.py", "moments.py",
    "older_kernels.py",
    "printed.py", "reading.py", "releases.py", "row.py", "snapshots.py", "stand_ins.py",
    "traced.py", "models/__init__.py",
)  # fmt: skip
"""Modules of the ledger that make them."""
_LIBRARIES: Final = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl")


def rows_of(folder: Path, only: Sequence[str] | None = None) -> Iterator[PublishedRow]:
    """Rows of every ``.jsonl`` file of a folder; ``only`` names sources (by the rows' ids).

    A file of events beside a row is named by its whole path.
    """
    for path in sorted(folder.glob("*.jsonl")):
        if only and path.stem in sources() and path.stem not in only:
            continue
        for row in read_rows(path):
            if is_published(row) and (not only or source_of(row) in only):
                yield {**row, "events": str(folder / row["events"])} if row.get("events") else row


def is_published(row: PublishedRow) -> bool:
    """Whether an object of a file has the fields of a published row."""
    return all(isinstance(row.get(name), str) for name in ("id", "tier", "task"))


def judge_all(
    rows: Sequence[PublishedRow],
    levels: Sequence[Level],
    *,
    sample: int | None = None,
    jobs: int | None = None,
    cached: bool = True,
    progress: TextIO | None = None,
) -> Judged:
    """What became of the rows, in their order, level by level.

    By trace, which takes seconds a row, ``sample`` rows of each source at most (`subset`).

    ``jobs`` processes (as many as there are CPUs by default; 1 is this one). Kept are answers by
    the row, the level and the code that makes the numbers, under ``$WILLFIT_LEDGER``
    (``~/.cache/willfit/ledger`` by default).
    """
    traced = {id(row) for row in (rows if sample is None else subset(rows, sample))}
    tasks = [
        (row, level) for level in levels for row in rows if level != "trace" or id(row) in traced
    ]
    found: dict[int, Judged] = {}
    if cached:
        found = {n: kept for n, task in enumerate(tasks) if (kept := _kept(*task)) is not None}
    todo = [n for n in range(len(tasks)) if n not in found]
    judging = _judged(todo, tasks, jobs or os.cpu_count() or 1)
    for done, (n, judged) in enumerate(judging, 1):
        found[n] = judged
        if cached:
            _keep(*tasks[n], judged)
        _say(progress, done, len(todo), *tasks[n])
    if progress is not None and todo:
        print(file=progress)
    ordered = [found[n] for n in range(len(tasks))]
    return Judged(
        outcomes=tuple(outcome for judged in ordered for outcome in judged.outcomes),
        known=tuple(known for judged in ordered for known in judged.known),
    )


def _judged(
    todo: Sequence[int], tasks: Sequence[tuple[PublishedRow, Level]], jobs: int
) -> Iterator[tuple[int, Judged]]:
    """Neighbours that share a model go to one process, which keeps its traces."""
    shared = [list(group) for _, group in groupby(todo, key=lambda n: _shared(*tasks[n]))]
    chunks = [part[i : i + 8] for part in shared for i in range(0, len(part), 8)]
    if jobs == 1 or len(chunks) < 2:
        for n in todo:
            yield n, judge(*tasks[n])
        return
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(_judge_chunk, [tasks[n] for n in chunk]) for chunk in chunks]
        for chunk, future in zip(chunks, futures, strict=True):
            yield from zip(chunk, future.result(), strict=True)


def _shared(row: PublishedRow, level: Level) -> tuple[str, str, str]:
    return level, source_of(row), str(row.get("model"))


def _judge_chunk(tasks: Sequence[tuple[PublishedRow, Level]]) -> list[Judged]:
    return [judge(row, level) for row, level in tasks]


def _say(progress: TextIO | None, done: int, of: int, row: PublishedRow, level: Level) -> None:
    if progress is None:
        return
    if progress.isatty():
        print(f"\r{done}/{of} {level} {row['id']:60.60}", end="", file=progress, flush=True)
    elif done % 100 == 0 or done == of:
        print(f"{done}/{of} rows judged", file=progress, flush=True)


def home() -> Path:
    """The folder of kept answers."""
    given = os.environ.get("WILLFIT_LEDGER")
    return Path(given) if given else Path.home() / ".cache" / "willfit" / "ledger"


def _path(row: PublishedRow, level: Level) -> Path:
    text = json.dumps([row, level], sort_keys=True, default=str)
    key = hashlib.sha256(f"{_code(source_of(row))} {text}".encode()).hexdigest()
    return home() / key[:2] / f"{key[2:]}.json"


@lru_cache
def _code(source: str) -> str:
    """A digest of all code and data that a source's numbers depend on."""
    parts = [_PACKAGE / name for name in _DECIDES]
    files = [f for part in parts for f in ([part] if part.is_file() else part.rglob("*"))]
    files += [*(_HERE / name for name in _HOW), *(_HERE / "models").glob("*.json")]
    files += [_HERE / "importers" / f"{source}.py", *(_HERE / "importers").glob("_*.py")]
    digest = hashlib.sha256(json.dumps(installed_versions(_LIBRARIES)).encode())
    for file in sorted(files):
        if file.name == "uncertainty.json":  # is made of the ledger, and enters no kept answer
            continue
        if file.suffix in (".py", ".json", ".jsonl", ".gz") and file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _kept(row: PublishedRow, level: Level) -> Judged | None:
    try:
        found: dict[str, Any] = json.loads(_path(row, level).read_text())
        return Judged(
            outcomes=tuple(Outcome(**outcome) for outcome in found["outcomes"]),
            known=tuple(
                Known(
                    **{
                        **known,
                        "sm": tuple(known["sm"]),
                        "demands": tuple(Demand(**demand) for demand in known["demands"]),
                    }
                )
                for known in found["known"]
            ),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(row: PublishedRow, level: Level, judged: Judged) -> None:
    path = _path(row, level)
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(asdict(judged)))
        unfinished.replace(path)
    except OSError as error:
        print(f"answers are not kept: {error}", file=sys.stderr)
