"""Speech: who says a line and what, once the prefixes in front of it are taken off."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from willfit.doctor.reading.markup import unmarked
from willfit.doctor.reading.prefixes import PREFIXES, PROGRAMS, Prefix

_MOST_PREFIXES: Final = 12
"""Prefixes in front of one line: container, collector, engine, rank, logger and level are six."""
_LONGEST_SPEAKER: Final = 160
_SHARE: Final = 0.6
"""Lines of a text that must have a prefix of the kind that is one only where most have it."""
_FEWEST: Final = 4


@dataclass(frozen=True)
class Said:
    """A line without prefixes."""

    text: str
    speaker: str
    origins: frozenset[str]


@dataclass(frozen=True)
class Speech:
    """Takes prefixes off the lines of one text."""

    usual: frozenset[str] = frozenset()
    """Names of prefixes that most lines have."""

    @classmethod
    def of(cls, lines: Sequence[str]) -> Speech:
        """For a text with these lines."""
        told = [line for line in lines if line.strip()]
        return cls(frozenset(row.name for row in PREFIXES if row.most and _is_usual(row, told)))

    def said(self, line: str) -> Said:
        """The line without what stands in front of it."""
        first, later = _patterns(self.usual)
        speakers: list[str] = []
        origins: set[str] = set()
        text, pattern = unmarked(line), first
        for _ in range(_MOST_PREFIXES):
            found = pattern.match(text)
            if found is None or found.lastgroup is None:
                break
            row = PREFIXES[int(found.lastgroup[1:])]
            speaker = found.groupdict().get(f"s{found.lastgroup[1:]}")
            speakers += [speaker.strip()] if speaker else []
            origins |= {row.origin} if row.origin else set()
            # what was behind may be a box, a quotation, another prefix
            text, pattern = unmarked(text[found.end() :]), later
        speaker = " ".join(dict.fromkeys(speakers))[:_LONGEST_SPEAKER]
        return Said(text, speaker, frozenset(origins | programs(speaker)))


def programs(speaker: str) -> set[str]:
    """Programs that a speaker's name tells."""
    lowered = speaker.lower()
    return {name for word, name in PROGRAMS if word in lowered} if lowered else set()


def _is_usual(row: Prefix, lines: Sequence[str]) -> bool:
    pattern = re.compile(row.pattern)
    count = sum(1 for line in lines if pattern.match(line))
    return count >= max(_FEWEST, _SHARE * len(lines))


@lru_cache(maxsize=8)
def _patterns(usual: frozenset[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Of what a line may begin with, and of what may follow."""
    rows = [(i, row) for i, row in enumerate(PREFIXES) if not row.most or row.name in usual]
    return _any_of((i, row) for i, row in rows if not row.after), _any_of(rows)


def _any_of(rows: Iterable[tuple[int, Prefix]]) -> re.Pattern[str]:
    options = (f"(?P<p{i}>{row.pattern.replace('(?P<speaker>', f'(?P<s{i}>')})" for i, row in rows)
    return re.compile(rf"[ \t]{{0,16}}(?:{'|'.join(options)})")
