"""Lengths of the user's samples, from the file they are in: one file a format, all of one shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from willfit.errors import BrokenFileError, InputError
from willfit.scenario.lengths import Lengths
from willfit.settings.lengths import csv_file, json_file, json_lines, parquet, token_counts
from willfit.settings.lengths.columns import Columns, choose
from willfit.settings.lengths.counting import ByCharacters, Counter, by_tokenizer
from willfit.settings.lengths.table import Table, bounded
from willfit.settings.lengths.texts import sample_of

__all__ = ["Counter", "ReadLengths", "by_characters", "by_tokenizer", "read_lengths"]

_FORMATS: Final[tuple[Any, ...]] = (parquet, csv_file, json_lines, json_file, token_counts)
_MESSAGE: Final = 5
"""Tokens that a chat template puts around a message: ``<|start_header_id|>``, the role,
``<|end_header_id|>``, a blank line and ``<|eot_id|>`` in Llama 3; as many in ChatML."""
_CHUNK: Final = 256
"""Samples counted at a time."""
_MOST_DISTINCT: Final = 1_000_000
_QUIET_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class ReadLengths:
    """Lengths as found, and how they were found."""

    lengths: Lengths
    assumptions: tuple[str, ...]


def by_characters(vocab_size: int | None = None) -> Counter:
    """The estimate that needs no tokenizer."""
    return ByCharacters(vocab_size=vocab_size)


def read_lengths(
    path: Path,
    *,
    counter: Counter | None = None,
    tokenizer_given: bool = False,
    columns: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> ReadLengths:
    """Histogram of a file's sample lengths, in memory that its size does not change.

    Raises `InputError` on a file that is none of the formats, has no such column or no rows.
    """
    table = _table(path)
    chosen = choose(table, columns, tokenizer_given=tokenizer_given)
    counter = counter or by_characters()
    counts: dict[int, int] = {}
    began, told = time.monotonic(), 0
    for number, length in enumerate(_lengths(table, chosen, counter), 1):
        counts[length] = counts.get(length, 0) + 1
        if len(counts) > _MOST_DISTINCT:
            raise BrokenFileError(
                f"{path} has more than {_MOST_DISTINCT:,} different lengths: are they token counts?"
            )
        if number % 4096 == 0 and time.monotonic() - began > _QUIET_SECONDS * (told + 1):
            told += 1
            progress(f"{number:,} rows of {path.name} read")
    if not counts:
        raise InputError(f"{path} has no rows: expected a sample a row")
    return ReadLengths(
        lengths=Lengths.from_counts(counts), assumptions=_assumptions(chosen, counter, path)
    )


def _table(path: Path) -> Table:
    if path.is_dir():
        raise InputError(f"{path} is a folder: name one file of token counts or texts in it")
    for known in _FORMATS:
        if path.suffix.lower() in known.SUFFIXES:
            table: Table = known.read(path)
            return table
    return token_counts.read(path)


def _lengths(table: Table, chosen: Columns, counter: Counter) -> Iterator[int]:
    rows = bounded(table.rows(chosen.names), table.path)
    if chosen.kind != "text":
        for number, (value,) in enumerate(rows, 1):
            yield _number(value, table.path, number, chosen)
        return
    while chunk := [sample_of(row) for row in islice(rows, _CHUNK)]:
        tokens = counter.count([sample.text for sample in chunk])
        for sample, count in zip(chunk, tokens, strict=True):
            yield max(count + _MESSAGE * sample.num_messages, 1)


def _number(value: Any, path: Path, row: int, chosen: Columns) -> int:
    """A count as it is, or how many ids there are."""
    number = _ids(value) if chosen.kind == "ids" else _count(value)
    if not 1 <= number < 2**40:
        raise InputError(
            f"row {row:,} of {path} has {str(value)[:20]!r} for {chosen.names[0]!r}: expected "
            "whole numbers of at least 1"
        )
    return number


def _ids(value: Any) -> int:
    """Ids in a list, or in the text of one."""
    if isinstance(value, (list, range)):
        return len(value)
    return value.count(",") + 1 if isinstance(value, str) and value else 0


def _count(value: Any) -> int:
    """A whole number, also as a table of text or of floats holds it; 0 for anything else."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 16:
        return int(value)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and not isinstance(value, bool) else 0


def _assumptions(chosen: Columns, counter: Counter, path: Path) -> tuple[str, ...]:
    if chosen.kind != "text":
        return (f"lengths as {path.name} counts them ({chosen.names[0]})",)
    said = [counter.assumption + f" (columns {', '.join(chosen.names)})"]
    if chosen.names[0].lower() in ("messages", "conversations"):
        said.append(f"a chat template is taken to add {_MESSAGE} tokens to every message")
    return tuple(said)
