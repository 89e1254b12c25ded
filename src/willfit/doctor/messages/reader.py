"""Reader: what one framework says when memory runs out, as one file of patterns a framework."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.doctor.amounts import read_amount
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report, Weight

_QUOTE: Final = 600
"""Longest quote of a message, in characters."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Finds one framework's messages in a text.

        READER = Reader(name="paddle", needles=("Out of memory error on GPU",), read=_read)

    ``read`` yields reports in the order of the text; its patterns are linear (no nested
    quantifier, every repetition bounded).
    """

    name: str
    needles: tuple[str, ...]
    """Every text that ``read`` finds something in contains one of these, as spelled, within one
    line: the search of a gigabyte looks for nothing else. Rare words only: no healthy log should
    be full of them."""
    read: Callable[[Flat], Iterator[Report]]


def report(
    flat: Flat,
    match: re.Match[str],
    *,
    family: str,
    weight: Weight = "numbers",
    fields: Mapping[str, Any] | None = None,
    amounts: Mapping[str, str | None] | None = None,
    release: str = "",
    marks: frozenset[str] = frozenset(),
) -> Report:
    """A report of what ``match`` found; ``amounts`` are texts by field, those of None left out."""
    printed = {name: text.strip() for name, text in (amounts or {}).items() if text is not None}
    first, last = flat.line_at(match.start()), flat.line_at(max(match.start(), match.end() - 1))
    return Report(
        family=family,
        fields={
            **{name: value for name, value in (fields or {}).items() if value is not None},
            **{name: read_amount(text).num_bytes for name, text in printed.items()},
        },
        printed=printed,
        line=first.number,
        last_line=last.number,
        quote=match[0][:_QUOTE],
        release=release,
        marks=marks,
        weight=weight,
        speaker=first.speaker,
    )
