"""PyTorch on Apple GPUs: aten/src/ATen/mps/MPSAllocator.mm.

Its GB are 2³⁰ bytes, and from 2.6 on they are called GiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import LINKED_AMOUNT as AMOUNT
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_HEAD: Final = rf"MPS backend out of memory \(MPS allocated: (?P<allocated_bytes>{AMOUNT})"
_OTHER: Final = rf"(?:, other allocations: (?P<other_bytes>{AMOUNT})"
_ALLOWED: Final = rf"(?:, max allowed: (?:(?P<allowed_bytes>{AMOUNT})|unlimited))?"
_TRIED: Final = (
    rf"(?:\)\. Tried to allocate (?P<tried_bytes>{AMOUNT})(?: on (?:private|shared) pool)?)?)?"
)
_NEW_UNITS: Final = re.compile(r"\d [KMG]iB\b")

_OLD: Final = "torch 1.12-2.5"
"""Boundary ± 1 minor."""

_TABLE: Final = (
    Sentence(
        pattern=unspaced(_HEAD + _OTHER + _ALLOWED + _TRIED),
        family="mps",
        backend="MPS",
    ),
    Sentence(
        pattern=unspaced(r"MPS backend out of memory(?! \(MPS allocated)"),
        family="mps",
        backend="MPS",
        marks=frozenset({"cut_off"}),
    ),
    Sentence(
        pattern=unspaced(rf"Invalid buffer size: (?P<tried_bytes>{AMOUNT})"),
        family="mps",
        marks=frozenset({"one_buffer"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    for found in read_sentences(flat, _TABLE):
        new = any(_NEW_UNITS.search(text) for text in found.printed.values())
        yield replace(found, release="torch 2.6+" if new else _OLD if found.printed else "")


READER: Final = Reader(
    name="mps",
    needles=(
        "MPS backend out",
        "MPS allocated",
        "other allocations",
        "ried to allocate",
        "Invalid buffer size",
    ),
    read=_read,
)
