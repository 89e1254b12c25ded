"""Attention kernels of torch that were asked for and do not run here: no question of memory."""

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
        pattern=unspaced(r"No available kernel(?:\.? Aborting execution)?"),
        family="sdpa-kernel",
        marks=frozenset({"not_memory"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="sdpa-kernel",
    needles=("No available kernel",),
    read=_read,
)
