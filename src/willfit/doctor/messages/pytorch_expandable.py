"""PyTorch's expandable segments: what they say when the device or the addresses run out."""

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
        # a warning: what is cached is given back and the mapping is tried again
        pattern=unspaced(
            r"memory mapping failed with OOM on device (?P<gpu>\d{1,4}) while trying to map "
            r"(?P<tried_bytes>\d{1,20}) bytes(?: \(free: (?P<free_bytes>\d{1,20}),"
            r" total: (?P<total_bytes>\d{1,20})\))?"
        ),
        family="pytorch-cuda",
        unit="bytes",
        marks=frozenset({"map_failed", "not_fatal"}),
        release="torch 2.13+",
        inside=True,
        weight="aftermath",
    ),
    Sentence(
        pattern=unspaced(r"\[ExpandableSegmentVA\] Failed to reserve"),
        family="pytorch-cuda",
        marks=frozenset({"va_reserve"}),
        release="torch 2.15+",
        weight="aftermath",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="pytorch-expandable",
    needles=("mapping failed with OOM", "while trying to map", "ExpandableSegmentVA"),
    read=_read,
)
