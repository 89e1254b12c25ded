"""A JSON list of objects, read value by value; objects one after the other are taken too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from willfit.errors import BrokenFileError
from willfit.settings.lengths.json_lines import table_of
from willfit.settings.lengths.table import MAX_FIELD, Table
from willfit.sources.limits import unreadable
from willfit.units import MIB, format_bytes

SUFFIXES = (".json",)
_BETWEEN: Final = re.compile(r"[\s,]*")
_NUMBER_END: Final = re.compile(r"[\s,\]]")


def read(path: Path) -> Table:
    """Columns by the names of the first object."""
    return table_of(path, _values)


def _values(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _decoded(file, path)
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError:
        raise BrokenFileError(f"{path} is not UTF-8 text: save it as UTF-8") from None


def _decoded(file: IO[str], path: Path) -> Iterator[Any]:
    """Values of a list, whose brackets may be missing; a buffer grows to the longest of them."""
    decoder = json.JSONDecoder()
    text, at = file.read(MIB), 0
    listed = text.lstrip().startswith("[")
    at = text.find("[") + 1 if listed else 0
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches anywhere
        if at < len(text) and text[at] == "]" and listed:
            return
        value, end = _next(decoder, text, at)
        if end is not None:
            yield value
            at = end
            continue
        more = file.read(max(MIB, len(text) - at))
        if not more:
            if at < len(text) or listed:
                raise BrokenFileError(_not_json(path))
            return
        text, at = text[at:] + more, 0
        if len(text) > 2 * MAX_FIELD:
            raise BrokenFileError(f"{_not_json(path)}, each of at most {format_bytes(MAX_FIELD)}")


def _next(decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int | None]:
    """The value at ``at`` and its end; None where it is not all there."""
    try:
        value, end = decoder.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, None
    if isinstance(value, (int, float)) and not _NUMBER_END.match(text, end):
        return None, None  # more digits may follow
    return value, end


def _not_json(path: Path) -> str:
    return (
        f"{path} is not a JSON list: expected objects or whole numbers in brackets, or one object "
        "a line in a .jsonl file"
    )
