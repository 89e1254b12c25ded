"""Given: a file of the doctor's, or what came through a pipe, by its kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from willfit.doctor.kinds import HEAD, Kind, kind_of
from willfit.errors import BrokenFileError, InputError

if TYPE_CHECKING:
    from willfit.doctor.notebooks import Notebook

MAX_CODE: Final = 2**26
"""Bound on a script, a notebook or a settings file: 64 MiB, of which pictures are most."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """One file, or what came through a pipe."""

    name: str
    kind: Kind
    path: Path | None
    """None where it came through a pipe."""
    content: bytes = b""
    """Whole, but for a log or a snapshot on disk; of a log in a pipe its beginning."""

    @property
    def text(self) -> str:
        """The content as text."""
        return self.content.decode("utf-8", "replace")

    @cached_property
    def notebook(self) -> Notebook:
        """Its cells, read once."""
        from willfit.doctor.notebooks import read_notebook

        return read_notebook(self.text)

    def log(self) -> Path | Iterator[bytes]:
        """A log, to be read as a stream."""
        return self.path if self.path is not None else _piped(self.content)

    def beginning(self, num_bytes: int) -> str:
        """The first lines of a log."""
        if self.path is None:
            return self.content[:num_bytes].decode("utf-8", "replace")
        with self.path.open("rb") as file:
            return file.read(num_bytes).decode("utf-8", "replace")


def given(names: Sequence[str]) -> Iterator[Given]:
    """Each file by its kind, ``-`` for the pipe; raises `InputError` on what cannot be read."""
    for name in names:
        yield _from_pipe() if name == "-" else _from_file(name)


def _from_pipe() -> Given:
    head = sys.stdin.buffer.read(HEAD)
    kind = kind_of("", head)
    whole = head if kind == "log" else head + sys.stdin.buffer.read(MAX_CODE)
    return Given(name="stdin", kind=kind, path=None, content=whole)


def _piped(head: bytes) -> Iterator[bytes]:
    """What came through the pipe so far, and what is still to come, a piece at a time."""
    yield head
    while piece := sys.stdin.buffer.read(HEAD):
        yield piece


def _from_file(name: str) -> Given:
    path = Path(name)
    try:
        with path.open("rb") as file:
            kind = kind_of(name, file.read(HEAD))
        whole = kind in ("script", "notebook", "settings")
        if whole and path.stat().st_size > MAX_CODE:
            raise BrokenFileError(f"{name} has more than 64 MiB: expected a smaller {kind}")
        content = path.read_bytes() if whole else b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file has such a name"
        raise InputError(
            f"cannot read {name[:200]!r} ({reason}): expected a log, notebook, script, settings "
            "file or memory snapshot"
        ) from None
    return Given(name=name, kind=kind, path=path, content=content)
