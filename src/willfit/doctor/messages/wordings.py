"""Wordings: tables of what an engine says when it fails, with the numbers of its lines before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.doctor.messages.numbers import (
    Fact,
    Facts,
    add_facts,
    split_fields,
    spoken,
    with_unit,
)
from willfit.doctor.messages.quotation import is_said
from willfit.doctor.messages.reader import report
from willfit.doctor.messages.squeezed import Squeezed
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report, Weight

_NUMERAL: Final = re.compile(r"-?[\d,]{1,40}(?:\.\d{1,20})?")


@dataclass(frozen=True, kw_only=True)
class Wording:
    """One sentence of a program: ``Not enough memory to handle 4096 prefill tokens``."""

    pattern: re.Pattern[str]
    """For squeezed text, see `willfit.doctor.messages.squeezed.unspaced`; its named groups are the
    fields of the report, see `willfit.doctor.messages.numbers`."""
    family: str
    weight: Weight = "words"
    """Of a sentence without numbers; with an amount in it, it is ``numbers``."""
    marks: frozenset[str] = frozenset()
    release: str = ""
    unit: str = ""
    """Of amounts that are printed without one."""
    spaced: bool = False
    """The pattern is for the text with its spaces: where a number may stand at a sentence's end and
    the next line begin with one."""


def line_wording(
    family: str, pattern: str, *marks: str, weight: Weight = "words", unit: str = ""
) -> Wording:
    """A wording of a log's line, for the text with its spaces."""
    return Wording(
        pattern=re.compile(pattern),
        family=family,
        weight=weight,
        marks=frozenset(marks),
        unit=unit,
        spaced=True,
    )


def read_wordings(
    flat: Flat, table: Sequence[Wording], facts: Sequence[Fact] = ()
) -> Iterator[Report]:
    """Reports of all wordings of the table, in the order of the text; the earlier row counts."""
    for told, _ in placed_wordings(flat, table, facts):
        yield told


def placed_wordings(
    flat: Flat, table: Sequence[Wording], facts: Sequence[Fact] = ()
) -> Iterator[tuple[Report, re.Match[str]]]:
    """The same with what each report was read from, in the flat's text."""
    found = sorted(_found(flat, table), key=lambda item: (item[0].start(), item[1]))
    beside = Facts(flat, facts if found else ())
    end = -1
    for stretch, rank, texts in found:
        said = stretch.start() >= end and is_said(
            flat, stretch.start(), stretch.end(), words_only=not texts
        )
        if said:
            end = stretch.end()
            told = _told(flat, stretch, table[rank], texts)
            yield add_facts(told, beside.near(stretch.start(), stretch.end())), stretch


_Found = tuple[re.Match[str], int, dict[str, str]]


def _found(flat: Flat, table: Sequence[Wording]) -> Iterator[_Found]:
    squeezed = Squeezed(flat)
    for rank, row in enumerate(table):
        for match in row.pattern.finditer(flat.text if row.spaced else squeezed.text):
            if row.spaced:
                texts = {n: with_unit(n, t, row.unit) for n, t in spoken(match).items()}
                yield match, rank, texts
            else:
                texts = {n: _printed(squeezed, match, n, row.unit) for n in spoken(match)}
                yield squeezed.stretch(match.start(), match.end()), rank, texts


def _told(flat: Flat, stretch: re.Match[str], row: Wording, texts: Mapping[str, str]) -> Report:
    fields, amounts = split_fields(texts)
    return report(
        flat,
        stretch,
        family=row.family,
        fields=fields,
        amounts=amounts,
        release=row.release,
        marks=row.marks,
        weight="numbers" if texts and row.weight == "words" else row.weight,
    )


def _printed(squeezed: Squeezed, match: re.Match[str], name: str, unit: str) -> str:
    start, end = match.span(name)
    text = squeezed.stretch(start, end)[0]
    if end == match.end() and " " in text and text[-1].isdigit():
        # what closes the sentence is a number without a unit: the next one is another's
        return with_unit(name, text.split(" ", 1)[0], unit)
    if not name.endswith("_bytes"):
        return match[name] if _NUMERAL.fullmatch(match[name]) else text
    amount = squeezed.amount(match, name) if text[-1].isalpha() else match[name]
    return with_unit(name, amount, unit)
