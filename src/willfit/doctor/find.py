"""Find: the reports of a text of any size, each once, in the order of its lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

from willfit.doctor.context import context_of as context_around
from willfit.doctor.messages import READERS, Reader
from willfit.doctor.passage import Flat, Line, Passage
from willfit.doctor.reading import Source, Stretch, Stretches, passage_of
from willfit.doctor.report import Context, Report, Weight

MOST_REPORTS: Final = 200
"""Different reports of one text that are kept; beyond, only those of a family not yet there."""
_WEIGHTS: Final[dict[Weight, int]] = {"numbers": 0, "words": 1, "aftermath": 2}
_LONGEST: Final = 50
"""Lines of a report that are compared with other reports' lines."""
_ALIKE: Final = 160
"""Characters of two quotes that are compared: what follows them may be in the one or the other."""

ContextOf = Callable[[Passage, Report], Context]
Key = tuple[str, str, str, str]
"""Family, fields, begin of the quote and speaker: equal reports have these in common."""


def reports_in(
    source: Source,
    *,
    readers: Sequence[Reader] = READERS,
    context_of: ContextOf | None = None,
) -> list[Report]:
    """Every failure that the source tells of, with how often it does.

    Of two readers that read the same line the earlier in ``readers`` counts, unless only the
    other found numbers. What follows from another failure is left out where that is there.
    """
    stretches = Stretches(source, _needles(tuple(readers)))
    told = _Told(context_of or context_around)
    for stretch in stretches:
        told.add(stretch, readers)
    reports = [_counted(one, stretches.repeats.more) for one in told.reports.values()]
    reports.sort(key=lambda report: (report.line, report.last_line))
    return _without_aftermath(reports)


@lru_cache(maxsize=8)
def _needles(readers: tuple[Reader, ...]) -> list[bytes]:
    return [needle.encode() for reader in readers for needle in reader.needles]


@dataclass
class _One:
    """A report and where else it stands."""

    report: Report
    at: Counter[int] = field(default_factory=Counter)
    """How often, by the number of its first line."""


@dataclass
class _Told:
    """What was told so far."""

    context_of: ContextOf
    reports: dict[Key, _One] = field(default_factory=dict)

    def add(self, stretch: Stretch, readers: Sequence[Reader]) -> None:
        """The reports of one stretch; what overlaps the one before is the same."""
        passage = passage_of(stretch)
        # each line by its place: many may have one number, where one line quotes a traceback
        numbers = [line.number for line in passage.lines]
        placed = [
            Line(number=place, text=line.text, speaker=line.speaker)
            for place, line in enumerate(passage.lines)
        ]
        passage = replace(passage, lines=placed)
        here: dict[Key, Counter[int]] = {}
        for report in _read(passage, stretch, readers):
            key = _key(report)
            here.setdefault(key, Counter())[numbers[report.line]] += 1
            if self._is_kept(key):
                whole = replace(report, context=self.context_of(passage, report))
                first, last = numbers[report.line], numbers[report.last_line]
                self.reports[key] = _One(replace(whole, line=first, last_line=last))
        for key, at in here.items():
            if key in self.reports:
                self.reports[key].at |= at

    def _is_kept(self, key: Key) -> bool:
        if key in self.reports:
            return False
        return len(self.reports) < MOST_REPORTS or all(key[0] != one[0] for one in self.reports)


def _key(report: Report) -> Key:
    fields = repr(sorted(report.fields.items()))
    return report.family, fields, report.quote[:_ALIKE], report.speaker


def _read(passage: Passage, stretch: Stretch, readers: Sequence[Reader]) -> Iterator[Report]:
    """Reports of a passage, those of which another is the better reading left out."""
    text = stretch.text.decode("utf-8", "replace")
    found = list(_readings(passage, text, readers))
    found.sort(key=lambda one: (_WEIGHTS[one[1].weight], one[0]))
    owners: dict[tuple[str, int], int] = {}
    kept = []
    for rank, report in found:
        spans = [(report.speaker, place) for place in _places(report)]
        if all(owners.get(span, rank) == rank for span in spans):
            owners.update(dict.fromkeys(spans, rank))
            kept.append(report)
    yield from sorted(kept, key=lambda report: report.line)


def _places(report: Report) -> range:
    return range(report.line, min(report.last_line, report.line + _LONGEST) + 1)


def _readings(
    passage: Passage, text: str, readers: Sequence[Reader]
) -> Iterator[tuple[int, Report]]:
    """What each reader reads, with its rank."""
    flats = list(passage.flats())
    # as printed or as cleaned: cleaning joins what colours part, and takes the edge of a table off
    words = "\n".join((text, *(flat.text for flat in flats[-1:])))
    for rank, reader in enumerate(readers):
        needles = [needle for needle in reader.needles if needle in words]
        if flats and needles:
            for report in _of_speakers(reader, needles, passage, flats):
                yield rank, report


def _of_speakers(
    reader: Reader, needles: Sequence[str], passage: Passage, flats: Sequence[Flat]
) -> Iterator[Report]:
    """What a reader reads in each speaker's words, or in all where it reads more from there on."""
    whole = _by_line(reader.read(flats[-1]))
    if len(flats) == 1:
        yield from (report for reports in whole.values() for report in reports)
        return
    own: dict[int, list[Report]] = {}
    for flat in flats[:-1]:
        if any(needle in flat.text for needle in needles):
            own |= _by_line(reader.read(flat))
    for line, reports in whole.items():
        is_more = _num_fields(reports) > _num_fields(own.get(line, ()))
        if (line not in own or is_more) and all(_is_ones(passage, one) for one in reports):
            # what the lines that nobody is named for gave alone is a part of it
            for report in reports:
                for part in _places(report):
                    own.pop(part, None)
            own[line] = reports
    yield from (report for reports in own.values() for report in reports)


def _by_line(reports: Iterator[Report]) -> dict[int, list[Report]]:
    lines: dict[int, list[Report]] = {}
    for report in reports:
        lines.setdefault(report.line, []).append(report)
    return lines


def _num_fields(reports: Sequence[Report]) -> int:
    return sum(len(report.fields) for report in reports)


def _is_ones(passage: Passage, report: Report) -> bool:
    """Whether a report stands in one speaker's lines and those that nobody is named for."""
    lines = passage.lines[report.line : report.last_line + 1]
    # in a container nobody is named who is not the container
    return all(f"{report.speaker} ".startswith(f"{line.speaker} ".lstrip()) for line in lines)


def _counted(one: _One, more: Counter[int]) -> Report:
    """With its number: what was read, and lines that were only counted."""
    length = min(one.report.last_line - one.report.line, _LONGEST) + 1
    unread = sum(max(more[line + i] for i in range(length)) for line in one.at)
    return replace(one.report, times=one.at.total() + unread)


def _without_aftermath(reports: list[Report]) -> list[Report]:
    """What only warns counts as no cause: an error that follows it stays."""
    causes = [report for report in reports if report.weight != "aftermath"]
    if causes and all("not_fatal" in report.marks for report in causes):
        first = next((report for report in reports if report.weight == "aftermath"), None)
        causes += [first] if first is not None else []
    return causes or reports[:1]
