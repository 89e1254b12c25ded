"""Triton: a kernel that could not be loaded, or that wants more shared memory than there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_TABLE: Final = (
    Sentence(
        pattern=unspaced(r"Triton Error \[(?:CUDA|HIP|ZE)\]: out of memory"),
        family="triton",
    ),
    Sentence(
        # on the chip, of one block of threads: no GPU memory would help
        pattern=unspaced(
            r"(?:OutOfResources: out of resource: (?:shared memory|tensor memory|registers)"
            r"|out of resource: (?:shared memory|tensor memory|registers)(?=, Required:))"
            r"(?:, Required: (?P<required_bytes>\d{1,12})"
            r", Hardware limit: (?P<limit_bytes>\d{1,12}))?"
        ),
        family="triton",
        unit="bytes",
        marks=frozenset({"on_chip"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="triton",
    needles=(
        "Triton Error",
        "out of resource",
        "OutOfResources",
        "Hardware limit",
    ),
    read=_read,
)
