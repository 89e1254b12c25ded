"""Host memory refused: c10/core/impl/alloc_cpu.cpp of torch, numpy, Rust and C++ programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import LINKED_AMOUNT as AMOUNT
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_BYTES: Final = r"(?P<tried_bytes>\d{1,24} bytes)"

_TABLE: Final = (
    Sentence(
        pattern=unspaced(
            r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)"
            rf"(?:: you tried to allocate {_BYTES})?"
        ),
        family="cpu",
        backend="CPU",
    ),
    Sentence(
        # torch 1.0 and 1.1 on Linux: ENOMEM against 0
        pattern=unspaced(r"posix_memalign\(&data, gAlignment, nbytes\) == 0\. 12 vs 0"),
        family="cpu",
        backend="CPU",
        release="torch 1.0-1.1",
    ),
    Sentence(
        # torch up to 0.4 counted whole GB
        pattern=unspaced(
            rf"Torch: not enough memory: you tried to allocate (?P<tried_bytes>{AMOUNT})"
        ),
        family="cpu",
        backend="CPU",
        release="torch 0.1-0.4",
    ),
    Sentence(
        pattern=unspaced(
            rf"Unable to allocate (?:array with shape|(?P<tried_bytes>{AMOUNT}) for an array)"
        ),
        family="cpu",
        marks=frozenset({"numpy"}),
    ),
    Sentence(
        pattern=unspaced(rf"memory allocation of {_BYTES} failed"),
        family="cpu",
        marks=frozenset({"rust"}),
    ),
    Sentence(
        pattern=unspaced(r"terminate called after throwing an instance of 'std::bad_alloc'"),
        family="cpu",
        marks=frozenset({"bad_alloc"}),
    ),
    Sentence(
        pattern=unspaced(r"(?<![A-Za-z_])MemoryError(?=$|:? ?std::bad_alloc(?!:))"),
        family="cpu",
        marks=frozenset({"bad_alloc"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="cpu",
    needles=(
        "DefaultCPUAllocator",
        "posix_memalign",
        "you tried to allocate",
        "for an array with shape",
        "Unable to allocate",
        "not enough memory: you tried",
        "Buy new RAM",
        "MemoryError",
        "std::bad_alloc",
        "memory allocation of",
    ),
    read=_read,
)
