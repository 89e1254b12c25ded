"""Results of an earlier run, in a folder that may be read-only, taken over where they count."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from willfit.errors import InputError
from willfit.runner.atomic import read_json, write_bytes, writing
from willfit.runner.folder import RunFolder, StageFolder
from willfit.runner.ingredients import Gathered
from willfit.runner.prepared import are_whole
from willfit.runner.shards import Range, disjoint, shard_name
from willfit.runner.shards.store import range_of
from willfit.runner.table import data_digest


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """Another run's folder, which is read and never written to."""

    folder: RunFolder

    def bring_stage(self, name: str, gathered: Gathered, here: RunFolder) -> int:
        """Copy the stage's prepared rows and shards of the same fingerprint; rows that came.

        A shard whose bytes are not those of its name stays where it is; what else must be true of
        one is seen to when the stage's folder is read.
        """
        self._bring_rows(gathered.key, here)
        theirs = self.folder.stage(name, gathered.fingerprint)
        ours = here.stage(name, gathered.fingerprint)
        if read_json(theirs.ingredients) is None:
            return 0
        _copy_new(theirs.budgets, ours.budgets)
        return sum(rows.size for rows in disjoint(_bring_shards(theirs, ours)))

    def bring_built(self, path: Path, here: RunFolder) -> None:
        """Copy the data that ``prepare`` made, where it is as it was made."""
        theirs = self.folder.path / path.relative_to(here.path)
        stated = read_json(theirs.with_suffix(".json"))
        if (
            not path.is_file()
            and theirs.is_file()
            and data_digest(theirs) == (stated or {}).get("digest")
        ):
            _copy(theirs, path)
            _copy(theirs.with_suffix(".json"), path.with_suffix(".json"))

    def _bring_rows(self, key: str, here: RunFolder) -> None:
        theirs, ours = self.folder.prepared(key), here.prepared(key)
        if not ours.is_file() and are_whole(theirs):
            _copy(theirs, ours)
            _copy(theirs.with_suffix(".json"), ours.with_suffix(".json"))


def earlier_run(path: str | Path, here: RunFolder) -> Earlier:
    """The run in a folder; raises `InputError` where there is none, or it is this one."""
    folder = RunFolder(path=Path(path).absolute())
    if read_json(folder.run) is None:
        raise InputError(
            f"{path} is no run folder: expected the folder of an earlier run, with run.json in it"
        )
    if folder.path.resolve() == here.path.resolve():
        raise InputError(
            f"{path} is the folder of this run: leave out --resume-from, what is there is kept"
        )
    return Earlier(folder=folder)


def _bring_shards(theirs: StageFolder, ours: StageFolder) -> list[Range]:
    """Ranges of the shards that were copied: true to their names, over no range that is here."""
    there = [range_of(path) for path in ours.shards.glob("*.parquet")]
    here = [rows for rows in there if rows is not None]
    brought: list[Range] = []
    for path in sorted(theirs.shards.glob("*.parquet")):
        rows = range_of(path)
        if rows is None or any(rows.start < r.stop and r.start < rows.stop for r in here):
            continue
        data = path.read_bytes()
        if shard_name(rows, data) == path.name:
            write_bytes(ours.shards / path.name, data)
            brought.append(rows)
    return brought


def _copy_new(theirs: Path, ours: Path) -> None:
    if theirs.is_file() and not ours.is_file():
        _copy(theirs, ours)


def _copy(theirs: Path, ours: Path) -> None:
    """Whole or not at all, by pieces: prepared rows can be large."""
    with writing(ours) as pending, theirs.open("rb") as source, pending.path.open("wb") as target:
        while piece := source.read(1 << 22):
            target.write(piece)
