"""Host kills: a process that the system ended, nearly always for the host's memory, not a GPU's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from willfit.doctor.amounts import AMOUNT
from willfit.doctor.messages.host_traces import NEEDLES, TRACES, Trace
from willfit.doctor.messages.quotation import is_said
from willfit.doctor.messages.reader import Reader, report
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report
from willfit.units import KIB

_LONGEST: Final = 2000
"""No trace stands further on in a line, in characters."""
_HINT: Final = re.compile(r"(?i:kill)|OOM|oom|[Mm]emory|-9|-7|13[57]")
"""Lines without any of these have no trace."""
_STRETCH: Final = re.compile(r"(?s:.+)")
_HOST_USE: Final = re.compile(
    rf"CPU Virtual Memory: ?used = (?P<used>{AMOUNT}), percent = (?P<percent>\d{{1,3}}\.\d{{1,2}})%"
)
"""DeepSpeed's see_memory_usage."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    trace: Trace
    groups: dict[str, str | None]
    stretch: re.Match[str]

    @property
    def victim(self) -> str:
        """The process that the kernel names; "" where it is not the kernel that speaks."""
        return (self.groups.get("pid") or "") if self.trace.mark == "kernel" else ""


def _read(flat: Flat) -> Iterator[Report]:
    kill: list[_Found] = []
    killed = ""
    for found in _traces(flat):
        victim = found.victim
        # the kernel tells of a second process; launchers tell of one kill many times
        if killed and victim not in ("", killed):
            yield _report(flat, kill)
            kill, killed = [], ""
        kill.append(found)
        killed = killed or victim
    if kill:
        yield _report(flat, kill)


def _traces(flat: Flat) -> Iterator[_Found]:
    for index, line in enumerate(flat.lines):
        if _HINT.search(line.text):
            start = flat.start_of(index)
            end = start + len(" ".join(line.text.split()))
            found = _of_line(flat, start, min(end, start + _LONGEST))
            if found is not None:
                yield found


def _of_line(flat: Flat, start: int, end: int) -> _Found | None:
    """The first wording that the line has."""
    words = flat.text[start:end]
    for trace in TRACES:
        inside = trace.pattern.search(words)
        if inside is None:
            continue
        stretch = _STRETCH.match(flat.text, start + inside.start(), start + inside.end())
        if stretch is not None and _is_said(flat, stretch, trace):
            return _Found(trace=trace, groups=inside.groupdict(), stretch=stretch)
    return None


def _is_said(flat: Flat, stretch: re.Match[str], trace: Trace) -> bool:
    start, end = stretch.span()
    return is_said(flat, start, end, words_only=not trace.free, inside=trace.follows)


def _report(flat: Flat, kill: Sequence[_Found]) -> Report:
    """One report of all traces of one kill; it follows from another failure if they all may."""
    first = kill[0].stretch
    sizes: dict[str, int] = {}
    for found in kill:
        named = found.groups.items()
        sizes |= {name: int(text) * KIB for name, text in named if text and name.endswith("_bytes")}
    used, percent = _host_use(flat, kill[-1].stretch.end())
    fields: dict[str, Any] = {**sizes, "cpu_percent": percent}
    return report(
        flat,
        first,
        family="host-kill",
        weight="aftermath" if all(found.trace.follows for found in kill) else "words",
        fields=fields,
        amounts={"cpu_used_bytes": used},
        marks=frozenset(found.trace.mark for found in kill),
    )


def _host_use(flat: Flat, before: int) -> tuple[str | None, float | None]:
    """What DeepSpeed last printed of the host's memory."""
    lines = list(_HOST_USE.finditer(flat.text, 0, before))
    return (lines[-1]["used"], float(lines[-1]["percent"])) if lines else (None, None)


READER: Final = Reader(name="host-kill", needles=NEEDLES, read=_read)
