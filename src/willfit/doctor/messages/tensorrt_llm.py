"""TensorRT-LLM: its runtime's CUDA errors, its executor's account, and TensorRT's builder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.numbers import NUM
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "tensorrt-llm"

_TABLE: Final = (
    Wording(
        pattern=unspaced(
            r"Executor creation failed (?:due to|with an error which might indicate) insufficient "
            r"GPU memory(?:\. The following component could not be created: "
            r"(?P<component>[A-Za-z(][\w ()/,-]{0,90}?) Total GPU memory \(GiB\): "
            rf"(?P<total_bytes>{NUM}) Free GPU memory before component creation attempt \(GiB\): "
            rf"(?P<free_bytes>{NUM}))?"
        ),
        family=_FAMILY,
        unit="GiB",
    ),
    Wording(
        pattern=unspaced(
            r"CUDA runtime error in (?:::)?[\w.]{1,60}(?:\([^\n]{0,160}?\))?: out of memory"
        ),
        family=_FAMILY,
    ),
    Wording(
        pattern=unspaced(
            rf"Requested amount of (?:GPU|pinned host) memory \((?P<tried_bytes>{NUM}) bytes\) "
            r"could not be allocated"
        ),
        family=_FAMILY,
        unit="bytes",
    ),
    Wording(
        pattern=unspaced(r"Can't allocate new blocks\. No free blocks left"),
        family=_FAMILY,
        marks=frozenset({"cache_blocks"}),
    ),
    Wording(
        pattern=unspaced(
            rf"Error Code \d{{1,2}}: OutOfMemory \((?:no further information|Requested size was "
            rf"(?P<tried_bytes>{NUM}) bytes)"
        ),
        family=_FAMILY,
        weight="aftermath",
        unit="bytes",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_wordings(flat, _TABLE)


READER: Final = Reader(
    name="tensorrt-llm",
    needles=(
        "Executor creation failed",
        "CUDA runtime error in",
        "Requested amount of",
        "OutOfMemory (",
        "allocate new blocks. No free",
    ),
    read=_read,
)
