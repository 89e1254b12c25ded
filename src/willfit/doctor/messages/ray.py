"""Ray's memory monitor, which kills workers before the kernel would: src/ray/raylet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import LINKED_AMOUNT as AMOUNT
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_TABLE: Final = (
    Sentence(
        pattern=unspaced(
            r"(?:Task was killed due to the node running low on memory\. )?"
            r"Memory on the node \([^)]{0,200}\) where the (?:task|lease|worker)"
            rf"(?: \(.{{0,300}}?memory used=(?P<worker_bytes>{AMOUNT})\))?.{{0,60}}?"
            rf" was running was (?P<host_used_bytes>{AMOUNT}) / (?P<host_total_bytes>{AMOUNT})"
            r"(?: \([0-9.]{1,12}\))?(?:, which exceeds the memory usage threshold of"
            r" [0-9.]{1,12}(?![0-9]))?"
        ),
        family="ray",
    ),
    Sentence(
        pattern=unspaced(
            r"\d{1,6} Workers? \(tasks? / actors?\) killed due to memory pressure \(OOM\)"
        ),
        family="ray",
    ),
    Sentence(
        pattern=unspaced(r"Task was killed due to the node running low on memory"),
        family="ray",
    ),
    Sentence(
        pattern=unspaced(
            r"RayOutOfMemoryError: More than [0-9.]{1,6}% of the memory on node \S{1,80}? is used"
            rf" \((?P<host_used_bytes>[0-9.]{{1,12}}) / (?P<host_total_bytes>{AMOUNT})\)"
        ),
        family="ray",
        unit="GB",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="ray",
    needles=(
        "Memory on the node",
        "due to memory pressure",
        "running low on memory",
        "RayOutOfMemoryError",
        "memory usage threshold",
    ),
    read=_read,
)
