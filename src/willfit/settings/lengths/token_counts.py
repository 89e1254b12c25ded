"""A text file of token counts, separated by white space or commas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from willfit.errors import InputError
from willfit.settings.lengths.table import Row, Table
from willfit.sources.limits import unreadable
from willfit.units import KIB

SUFFIXES = (".txt",)
EXPECTED = "expected one whole number a line"


def read(path: Path) -> Table:
    """One column of counts, named ``length``."""
    return Table(path=path, names=("length",), rows=lambda _: _rows(path))


def _rows(path: Path) -> Iterator[Row]:
    for word in _words(path):
        if not word.isdecimal() or not word.isascii() or len(word) > 15:
            raise InputError(
                f"cannot read token counts from {path}: {word[:20]!r} is no whole number; "
                f"{EXPECTED} (texts come as .jsonl, .csv or .parquet)"
            )
        yield (int(word),)


def _words(path: Path) -> Iterator[str]:
    """Words of the file, read piece by piece; one that never ends is cut, and refused above."""
    try:
        with path.open(encoding="ascii") as file:
            rest = ""
            while part := file.read(64 * KIB):
                words: Sequence[str] = (rest + part.replace(",", " ")).split()
                whole = part[-1].isspace() or part[-1] == "," or not words
                rest = "" if whole else words[-1][:64]
                yield from words if whole else words[:-1]
            if rest:
                yield rest
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError:
        raise InputError(
            f"cannot read token counts from {path}: not whole numbers; {EXPECTED}"
        ) from None
