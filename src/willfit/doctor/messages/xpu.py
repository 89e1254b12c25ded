"""PyTorch on Intel GPUs: c10/xpu/XPUCachingAllocator.cpp, the older extension, and the driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.pytorch import NEEDLES, allocator_reports
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import LINKED_AMOUNT as AMOUNT
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_ONE_BUFFER: Final = (
    r"Current platform can NOT allocate memory block with size larger than 4GB! "
    rf"Tried to allocate (?P<tried_bytes>{AMOUNT})"
)
_TABLE: Final = (
    Sentence(
        pattern=unspaced(
            rf"{_ONE_BUFFER} \(GPU (?P<gpu>\d{{1,4}}); (?P<total_bytes>{AMOUNT}) total capacity; "
            rf"(?P<allocated_bytes>{AMOUNT}) already allocated; "
            rf"(?P<reserved_bytes>{AMOUNT}) reserved in total by PyTorch\)"
        ),
        family="pytorch-xpu",
        backend="XPU",
        marks=frozenset({"one_buffer"}),
    ),
    Sentence(
        pattern=unspaced(_ONE_BUFFER),
        family="pytorch-xpu",
        marks=frozenset({"one_buffer"}),
    ),
    Sentence(
        pattern=unspaced(r"(?:UR_RESULT|PI)_ERROR_OUT_OF_(?:DEVICE_MEMORY|RESOURCES)"),
        family="pytorch-xpu",
        marks=frozenset({"driver"}),
    ),
    Sentence(
        pattern=unspaced(r"(?:UR_RESULT|PI)_ERROR_OUT_OF_HOST_MEMORY"),
        family="pytorch-xpu",
        marks=frozenset({"driver", "host_memory"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    yield from allocator_reports(flat, ("XPU",), "pytorch-xpu")
    yield from read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="pytorch-xpu",
    needles=(
        "XPU out of memory",
        "can NOT allocate memory block",
        "larger than 4GB",
        "_ERROR_OUT_OF_",
        *NEEDLES,
    ),
    read=_read,
)
