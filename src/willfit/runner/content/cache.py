"""Digests of large files kept from run to run, so that each is read once."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from willfit.errors import InputError
from willfit.runner.atomic import read_json, write_json

MOST: Final = 4096
"""Files that are remembered; those that were not asked for the longest go first."""
SETTLED_SECONDS: Final = 2.0
"""Coarsest clock of a file system (FAT): a file changed more recently could change again
without a sign."""
_FORMAT: Final = 1


class DigestCache:
    """Digests by path, size, times and inode, in a JSON file; None keeps them in memory alone.

    A broken file is started anew, and one that cannot be written costs a second reading, no more.
    """

    def __init__(self, path: Path | None, *, settled_seconds: float = SETTLED_SECONDS) -> None:
        self._path = path
        self._settled_seconds = settled_seconds
        self._rows = _load(path)
        self._changed = False

    def get(self, path: Path, facts: os.stat_result, kind: str) -> str | None:
        """The digest of that kind if the file is as it was; None otherwise."""
        name = _name(path, kind)
        row = self._rows.get(name)
        if row is None or row[:-1] != _key(facts):
            return None
        self._rows[name] = self._rows.pop(name)  # asked for last
        return str(row[-1])

    def put(
        self, path: Path, facts: os.stat_result, kind: str, digest: str, *, looked_at: float
    ) -> None:
        """Remember the digest of a file that was read after its facts were taken.

        ``looked_at``: when they were, in seconds since the epoch. A file that had changed just
        before is not remembered.
        """
        if looked_at - max(facts.st_mtime, facts.st_ctime) < self._settled_seconds:
            return
        self._rows.pop(_name(path, kind), None)
        self._rows[_name(path, kind)] = [*_key(facts), digest]
        for oldest in list(self._rows)[:-MOST]:
            del self._rows[oldest]
        self._changed = True

    def save(self) -> None:
        """Write what is new."""
        if self._path is None or not self._changed:
            return
        with contextlib.suppress(InputError):
            write_json(self._path, {"format": _FORMAT, "files": self._rows})
            self._changed = False


def _name(path: Path, kind: str) -> str:
    return f"{kind}:{os.path.abspath(path)}"  # noqa: PTH100 - links are part of the name


def _key(facts: os.stat_result) -> list[int | str]:
    """The change time is there for copies that keep the old date of what they overwrite."""
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


def _load(path: Path | None) -> dict[str, list[int | str]]:
    try:
        kept = read_json(path) if path is not None else None
    except InputError:
        return {}
    rows = kept.get("files") if kept is not None and kept.get("format") == _FORMAT else None
    if not isinstance(rows, dict):
        return {}
    return {name: row for name, row in list(rows.items())[-MOST:] if _well_formed(row)}


def _well_formed(row: object) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 5
        and all(type(number) is int for number in row[:-1])
        and isinstance(row[-1], str)
    )
