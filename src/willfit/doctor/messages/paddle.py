"""PaddlePaddle: paddle/fluid/memory/allocation/cuda_allocator.cc."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from willfit.doctor.amounts import AMOUNT
from willfit.doctor.messages.reader import Reader, report
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_MESSAGE: Final = re.compile(
    rf"Out of memory error on GPU (?P<gpu>\d{{1,4}})\. Cannot allocate (?P<tried>{AMOUNT}) memory "
    rf"on GPU \d{{1,4}}, (?P<allocated>{AMOUNT}) memory has been allocated and available memory is "
    rf"only (?P<available>{AMOUNT})"
)


def _read(flat: Flat) -> Iterator[Report]:
    for match in _MESSAGE.finditer(flat.text):
        yield report(
            flat,
            match,
            family="paddle",
            fields={"gpu": int(match["gpu"])},
            amounts={
                "tried_text_bytes": match["tried"],
                "allocated_text_bytes": match["allocated"],
                "available_text_bytes": match["available"],
            },
        )


READER: Final = Reader(name="paddle", needles=("Out of memory error on GPU",), read=_read)
