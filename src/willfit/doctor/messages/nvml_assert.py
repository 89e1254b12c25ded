"""Failures of torch's allocator that do not say "out of memory" and are, or come from, one.

While it builds its message torch asks NVML who else is on the device; where NVML does not answer
(slices of a GPU, Jetson, sandboxes) the assertion's text takes the place of the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_RELEASES: Final[tuple[tuple[str, int | None, int | None, int | None, int | None], ...]] = (
    ("2.1", 1154, 1123, 1139, None),
    ("2.2", 830, 799, 815, None),
    ("2.3", 844, 813, 829, None),
    ("2.4", 838, 806, 823, None),
    ("2.5", 995, 963, 980, None),
    ("2.6-2.7", 1015, None, None, None),
    ("2.8", 1131, 1098, 1116, None),
    ("2.9", 1123, 1090, 1108, None),
    ("2.10", 1154, 1124, 1139, None),
    ("2.11", 1165, 1135, 1150, None),
    ("2.12", 1319, 1289, 1304, None),
    ("2.13", 1407, 1377, 1392, 467),
    ("2.14", None, None, None, 487),
    ("2.15", None, None, None, 582),
)
"""Lines of c10/cuda/CUDACachingAllocator.cpp by release: the process query, nvmlInit, the handle
by PCI bus, the handles of a segment. Read in the wheels' texts, the last patch of each release;
2.6-2.7 from a dated report; builds of others can differ."""
_COLUMNS: Final = (
    ("query", re.compile(r"NVML_SUCCESS ?== ?r\b|NVML_SUCCESS==rI")),
    ("init", re.compile(r"nvmlInit")),
    ("handle", re.compile(r"GetHandleByPciBusId")),
    ("segment", re.compile(r"!handles_\.at")),
)
_OLD_BUILD: Final = re.compile(r'"(?:\.\./|/opt/conda/conda-bld/)')
_NEW_BUILD: Final = re.compile(r'"(?:/pytorch/|/__w/)')
_OLD: Final = ("2.1", "2.2", "2.3", "2.4", "2.5")
"""Releases whose paths begin with ``../c10`` or the builder's folder."""

_WHERE: Final = (
    r" ?INTERNAL ASSERT FAILED(?: at \"?(?:[^\"\s]{0,200}?CUDACachingAllocator\.cpp\"?"
    r":(?P<assert_line>\d{1,5})(?!\d))?)?"
)
_TABLE: Final = (
    Sentence(pattern=unspaced(rf"NVML_SUCCESS == [^\"]{{1,90}}?{_WHERE}"), family="nvml-assert"),
    Sentence(
        pattern=unspaced(rf"!handles_\.at\(i\){_WHERE}"),
        family="nvml-assert",
        marks=frozenset({"poisoned_segment"}),
    ),
    Sentence(
        pattern=unspaced(rf"p\.block != nullptr && p\.block->ptr != nullptr{_WHERE}"),
        family="nvml-assert",
        marks=frozenset({"impossible_size"}),
    ),
    Sentence(
        pattern=unspaced(r"nvmlInit_v2 failed; omitting per-process memory info"),
        family="nvml-assert",
        marks=frozenset({"nvml_omitted"}),
        weight="aftermath",
        release="torch 2.14+",
    ),
)


def release_of(message: str, line: int) -> str:
    """The release whose assertion stands in that line: ``torch 2.5``; "" for a line not known.

    >>> release_of('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACach…', 844)
    'torch 2.3'
    """
    column = next((i for i, (_, p) in enumerate(_COLUMNS, 1) if p.search(message)), None)
    fitting = [row[0] for row in _RELEASES if column and row[column] == line]
    if _OLD_BUILD.search(message):
        fitting = [name for name in fitting if name in _OLD] or fitting
    if _NEW_BUILD.search(message):
        fitting = [name for name in fitting if name not in _OLD] or fitting
    return f"torch {' or '.join(fitting)}" if fitting else ""


def _read(flat: Flat) -> Iterator[Report]:
    for found in read_sentences(flat, _TABLE):
        line = found.fields.get("assert_line")
        if line is None:
            yield found
        else:
            yield replace(found, release=release_of(found.quote, line))


READER: Final = Reader(
    name="nvml-assert",
    needles=(
        "INTERNAL ASSERT FAILED",
        "NVML_SUCCESS",
        "!handles_.at(",
        "CUDACachingAllocator.cpp",
        "nvmlInit_v2 failed",
    ),
    read=_read,
)
