"""Passages: a stretch of bytes as lines that say what was meant, with who said them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from willfit.doctor.passage import Line, Passage
from willfit.doctor.reading.hypertext import words_of
from willfit.doctor.reading.markup import unglued
from willfit.doctor.reading.prefixes import WORDS
from willfit.doctor.reading.quoted import texts_in
from willfit.doctor.reading.speech import Said, Speech
from willfit.doctor.reading.stretches import Stretch
from willfit.doctor.reading.terminal import visible

_UNUSUAL: Final = re.compile(r"[^\t -%'-;=-\[\]-~]|#033|\^\[|\[0m|%\|")
"""What a line has that was seen otherwise: escapes, tags, entities, backslashes, bars glued on."""
_DEEPEST: Final = 4
"""Quotations in quotations: JSON in a log's field in JSON."""


def passage_of(stretch: Stretch) -> Passage:
    """The lines of a stretch, blank ones left out."""
    physical = [_seen(line) for line in stretch.text.decode("utf-8", "replace").split("\n")]
    speech = Speech.of([line for lines in physical for line in lines])
    lines: list[Line] = []
    origins: set[str] = set()
    for number, parts in enumerate(physical, stretch.first_line):
        for said in (said for part in parts for said in _said(part, speech, _DEEPEST)):
            origins |= said.origins
            if said.text.strip():
                lines.append(Line(number=number, text=said.text.rstrip(), speaker=said.speaker))
    whole = "\n".join(line.text for line in lines)
    return Passage(lines, frozenset(origins | {name for word, name in WORDS if word in whole}))


def _seen(line: str) -> list[str]:
    """A physical line as the lines that were to be seen."""
    if not _UNUSUAL.search(line):
        return [line]
    return visible(words_of(line)).split("\n")


def _said(line: str, speech: Speech, depth: int) -> Iterator[Said]:
    """What a line says; what it quotes, and what was printed behind a bar, by itself."""
    said = speech.said(line)
    told = texts_in(said.text)
    told = unglued(told) if told == said.text else told
    if told == said.text or not depth:
        yield said
        return
    for part in (part for text in told.split("\n") for part in _seen(text)):
        for inner in _said(part, speech, depth - 1):
            yield Said(inner.text, inner.speaker or said.speaker, inner.origins | said.origins)
