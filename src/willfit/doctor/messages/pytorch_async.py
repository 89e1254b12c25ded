"""PyTorch's other allocator, backend:cudaMallocAsync: c10/cuda/CUDAMallocAsyncAllocator.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import LINKED_AMOUNT as AMOUNT
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_LF: Final = r"(?:\\{1,3}n)?"
"""A line's end, as JSON spells it."""
_EXCEEDS: Final = (
    r"Allocation on device [\x00-\x08\ufffd]?(?P<gpu>\d{1,4})? would exceed allowed memory"
)
_TABLE: Final = (
    Sentence(
        # 2⁶⁴ − 1 is no limit
        pattern=unspaced(
            rf"{_EXCEEDS}\. \(out of memory\)"
            rf"{_LF} Currently allocated : (?P<allocated_bytes>{AMOUNT})"
            rf"(?:{_LF} Requested : (?P<tried_bytes>{AMOUNT}))?"
            rf"(?:{_LF} Device limit : (?P<total_bytes>{AMOUNT}))?"
            rf"(?:{_LF} Free \(according to CUDA\): (?P<free_bytes>{AMOUNT}))?"
            rf"(?:{_LF} PyTorch limit \(set by user-supplied memory fraction\){_LF} : "
            rf"(?!17179869184)(?P<allowed_bytes>{AMOUNT}))?"
        ),
        family="pytorch-cuda",
        backend="CUDA",
        marks=frozenset({"malloc_async"}),
    ),
    Sentence(
        pattern=unspaced(_EXCEEDS),
        family="pytorch-cuda",
        marks=frozenset({"malloc_async", "cut_off"}),
    ),
    Sentence(
        pattern=unspaced(r"OutOfMemoryError: Allocation on device(?!\d)"),
        family="pytorch-cuda",
        marks=frozenset({"malloc_async", "cut_off", "nul_bug"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="pytorch-async", needles=("llocation on device", "exceed allowed memory"), read=_read
)
