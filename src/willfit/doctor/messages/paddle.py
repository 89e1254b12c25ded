"""PaddlePaddle: paddle/fluid/memory/allocation/cuda_allocator.cc."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.numbers import NUM, UNITS
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "paddle"

_TABLE: Final = (
    Wording(  # what has been allocated is said from 2.1 on
        pattern=unspaced(
            r"Out of memory error on (?:GPU|XPU|NPU) (?P<gpu>\d{1,4})\. Cannot allocate "
            rf"(?P<tried_text_bytes>{NUM} {UNITS}) memory on (?:GPU|XPU|NPU) \d{{1,4}}, "
            rf"(?:(?P<allocated_text_bytes>{NUM} {UNITS}) memory has been allocated and )?"
            rf"available memory is only (?P<available_text_bytes>{NUM} {UNITS})"
        ),
        family=_FAMILY,
    ),
    Wording(  # the host's allocator
        pattern=unspaced(
            rf"Fail to alloc memory of (?P<tried_text_bytes>{NUM}) size, error code is \d{{1,4}}"
        ),
        family=_FAMILY,
        marks=frozenset({"host"}),
        unit="bytes",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_wordings(flat, _TABLE)


READER: Final = Reader(
    name="paddle",
    needles=("Out of memory error on", "Fail to alloc memory of"),
    read=_read,
)
