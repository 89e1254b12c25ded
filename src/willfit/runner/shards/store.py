"""A shard's file: Parquet, named by its range and by the digest of its bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from willfit.runner.atomic import write_bytes
from willfit.runner.shards.ranges import Range, disjoint, gaps

_NAME: Final = re.compile(r"(\d{9,})-(\d{9,})\.([0-9a-f]{32})\.parquet")
_KEY: Final = b"willfit"
_UNREADABLE: Final = (
    pa.ArrowException, OSError, LookupError, ValueError, TypeError, AttributeError,
)  # fmt: skip
"""What reading raises of a file that was broken before it was named, such as a column's name that
is no text."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard whose file was read and found true."""

    path: Path
    rows: Range
    facts: Mapping[str, Any]
    """What was written beside the rows: fingerprint, batch_tokens, versions."""
    table: pa.Table = field(repr=False)
    """``id``, ``n_tokens``, ``error`` and the results."""


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A file that is no shard of this stage, and why."""

    path: Path
    reason: str


def shard_bytes(table: pa.Table, facts: Mapping[str, Any]) -> bytes:
    """The file of a shard, with checksums in its pages."""
    metadata = {_KEY: json.dumps(facts, sort_keys=True).encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=False,
    )
    return bytes(sink.getvalue().to_pybytes())


def shard_name(rows: Range, data: bytes) -> str:
    """``{start}-{stop}.{digest}.parquet``; the digest is BLAKE2b-128 of the bytes."""
    return f"{rows.start:09d}-{rows.stop:09d}.{_digest(data)}.parquet"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def range_of(path: Path) -> Range | None:
    """The range that a file's name states; None where it is not a shard's name."""
    match = _NAME.fullmatch(path.name)
    return Range(int(match[1]), int(match[2])) if match else None


def read_shard(path: Path, fingerprint: str, ids_of: Callable[[Range], pa.Array]) -> Shard | Broken:
    """The shard, or what is wrong with it: nothing of a broken file is ever used.

    ``ids_of``: the ids that the stage has in a range.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        return Broken(path=path, reason="not a shard's name")
    rows = Range(int(match[1]), int(match[2]))
    try:
        data = path.read_bytes()
    except OSError as error:
        return Broken(path=path, reason=f"cannot be read: {error.strerror}")
    if _digest(data) != match[3]:
        return Broken(path=path, reason="its bytes are not those that were written")
    try:
        table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
        facts = json.loads((table.schema.metadata or {})[_KEY])
        ours, same = facts.get("fingerprint") == fingerprint, _same(table, ids_of(rows))
    except _UNREADABLE as error:
        return Broken(path=path, reason=f"no shard: {str(error)[:80]}")
    if not ours:
        return Broken(path=path, reason="made with other data, model or settings")
    if not same:
        return Broken(path=path, reason="its ids are not those of its rows")
    return Shard(path=path, rows=rows, facts=facts, table=table)


def _same(table: pa.Table, ids: pa.Array) -> bool:
    """Whether the shard's ids are those of its rows, in their order."""
    if "id" not in table.column_names or table.num_rows != len(ids):
        return False
    found = table.column("id").combine_chunks()
    return bool(found.type == ids.type and found.equals(ids))


@dataclass(frozen=True, kw_only=True)
class Store:
    """The shards of one stage in their folder; what is there and true is what is done."""

    folder: Path
    fingerprint: str
    ids: pa.Array = field(repr=False)
    """Ids of the stage's rows, in the order of positions."""

    @property
    def num_rows(self) -> int:
        """Rows of the stage."""
        return len(self.ids)

    def ids_of(self, rows: Range) -> pa.Array:
        """The ids in a range; none where the range leaves the stage."""
        if rows.stop > self.num_rows:
            return self.ids.slice(0, 0)
        return self.ids.slice(rows.start, rows.size)

    def read(self, path: Path) -> Shard | Broken:
        """One shard of this stage."""
        return read_shard(path, self.fingerprint, self.ids_of)

    def scan(self) -> tuple[list[Range], list[Broken]]:
        """The disjoint ranges whose files are true, and the files that are not.

        Files that are not, and those that overlap a better one, are removed: their rows count as
        not done.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        found: dict[Range, Path] = {}
        broken: list[Broken] = []
        for path in sorted(self.folder.glob("*.parquet")):
            shard = self.read(path)
            if isinstance(shard, Broken):
                broken.append(shard)
            else:
                found.setdefault(shard.rows, path)
        chosen = disjoint(found)
        keep = {found[rows] for rows in chosen}
        for path in self.folder.glob("*.parquet"):
            if path not in keep:
                path.unlink(missing_ok=True)
        return chosen, broken

    def put_error(
        self, position: int, tokens: int, reason: str, versions: Mapping[str, str]
    ) -> None:
        """Keep a row's error in place of its result: never a silent null."""
        rows = Range(position, position + 1)
        table = pa.table(
            {
                "id": self.ids_of(rows),
                "n_tokens": pa.array([tokens], pa.int32()),
                "error": pa.array([reason[:500]], pa.string()),
            }
        )
        facts: Mapping[str, Any] = {
            "fingerprint": self.fingerprint, "start": rows.start, "stop": rows.stop,
            "batch_tokens": None, "versions": dict(versions),
        }  # fmt: skip
        data = shard_bytes(table, facts)
        write_bytes(self.folder / shard_name(rows, data), data)

    def find(self, rows: Range) -> Shard | None:
        """The true shard of exactly these rows; None where there is none."""
        paths = self.folder.glob(f"{rows.start:09d}-{rows.stop:09d}.*.parquet")
        found = (self.read(path) for path in paths)
        return next((shard for shard in found if isinstance(shard, Shard)), None)

    def done(self) -> list[Range]:
        """The ranges that file names state, without reading the files."""
        stated = (range_of(path) for path in self.folder.glob("*.parquet"))
        return disjoint(rows for rows in stated if rows is not None)

    def missing(self) -> list[Range]:
        """What `done` leaves."""
        return gaps(self.done(), self.num_rows)

    def shards(self) -> Iterator[Shard]:
        """Every shard, read and checked, by start; broken and overlapping ones are left out."""
        reached = 0
        stated = [(range_of(path), path) for path in self.folder.glob("*.parquet")]
        named = [(rows, path) for rows, path in stated if rows is not None]
        for rows, path in sorted(named, key=lambda pair: (pair[0].start, -pair[0].stop)):
            if rows.start < reached:
                continue
            shard = self.read(path)
            if isinstance(shard, Shard):
                reached = rows.stop
                yield shard
