"""Numbers: what the named groups of a pattern hold, and the lines around a message that have more.

A group that ends in ``_bytes`` holds an amount, any other a count or a ratio; a group's name is the
field's name in the report.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from willfit.doctor.amounts import NUMBER, read_amount
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

NUM: Final = NUMBER
"""Pattern of a number, for texts with spaces and without."""
UNITS: Final = r"(?:bytes|[KMGT]i?B|B)"
"""Pattern of a unit that the next word touches once the spaces are out."""
SIGNED: Final = rf"-?{NUMBER}\s?{UNITS}"
"""Pattern of an amount that may be less than nothing: ``-1.05GiB``."""
RATIO: Final = r"[01](?:\.\d{1,20})?"
"""Pattern of a share, as Python prints a float."""
_LETTERS: Final = frozenset("KMGT")
"""Units of XLA's compiler."""

_BACK: Final = 40_000
"""How far before a message an information line may stand, in characters: the start-up of an engine
prints some hundred lines."""
_AHEAD: Final = 4_000
"""How far behind it: what XLA lists of its buffers."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A line that a healthy start prints too: ``# GPU blocks: 229``."""

    pattern: re.Pattern[str]
    """For the flat's text, spaces and all."""


@dataclass(frozen=True)
class Facts:
    """The information lines of one text, by the fields that they give."""

    flat: Flat
    table: Sequence[Fact]
    _found: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for fact in self.table:
            for match in fact.pattern.finditer(self.flat.text):
                for name, text in spoken(match).items():
                    self._found.setdefault(name, []).append((match.start(), text))
        for places in self._found.values():
            places.sort()

    def near(self, start: int, end: int) -> dict[str, str]:
        """For every field the last that stands before ``start``, else the first after ``end``."""
        read = ((name, self._nearest(name, start, end)) for name in self._found)
        return {name: text for name, text in read if text is not None}

    def _nearest(self, name: str, start: int, end: int) -> str | None:
        places = self._found[name]
        after = bisect_left(places, (start, ""))
        if after and places[after - 1][0] >= start - _BACK:
            return places[after - 1][1]
        ahead = after < len(places) and places[after][0] <= end + _AHEAD
        return places[after][1] if ahead else None


def spoken(match: re.Match[str]) -> dict[str, str]:
    """The named groups that took part."""
    return {name: text for name, text in match.groupdict().items() if text is not None}


def with_unit(name: str, text: str, unit: str) -> str:
    """An amount's text with a unit, XLA's ``21.95G`` with a whole one; other texts as they are."""
    if not name.endswith("_bytes"):
        return text
    if text[-1:] in _LETTERS:
        return f"{text}iB"
    return f"{text} {unit}" if unit and not text[-1:].isalpha() else text


def split_fields(texts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields that are numbers, and amounts as texts: what `report` takes.

    An amount below nothing is among the numbers: as printed it says no more.
    """
    amounts = {n: t for n, t in texts.items() if n.endswith("_bytes") and not t.startswith("-")}
    fields: dict[str, Any] = {n: _value(n, t) for n, t in texts.items() if n not in amounts}
    return fields, amounts


def add_facts(reading: Report, texts: Mapping[str, str]) -> Report:
    """The report with more fields; those that it has it keeps."""
    fields, amounts = split_fields(texts)
    read = {name: read_amount(text).num_bytes for name, text in amounts.items()}
    return replace(
        reading,
        fields={**fields, **read, **reading.fields},
        printed={**amounts, **reading.printed},
    )


def _value(name: str, text: str) -> Any:
    if name.endswith("_bytes"):
        return -read_amount(text.removeprefix("-")).num_bytes
    if re.fullmatch(r"-?\d+\.\d+", text):
        return float(text)
    whole = text.replace(",", "")
    return int(whole) if re.fullmatch(r"-?\d+", whole) else text
