"""PyTorch up to 0.4: the THC allocator, whose message has no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_ERROR: Final = Sentence(
    pattern=unspaced(r"[Cc]uda runtime error \(2\) ?: out of memory(?: at [^\s:]{1,200}:\d{1,6})?"),
    family="pytorch-legacy",
    release="torch 0.1-0.4",
)
_CHECK: Final = Sentence(
    pattern=unspaced(r"THCudaCheck FAIL file=.{1,200}? line=\d{1,6}? error=2 ?: out of memory"),
    family="pytorch-legacy",
    release="torch 0.1-0.4",
)


def _read(flat: Flat) -> Iterator[Report]:
    # the check's line and the exception's tell of the same failure
    said = list(read_sentences(flat, (_ERROR,)))
    return iter(said or list(read_sentences(flat, (_CHECK,))))


READER: Final = Reader(
    name="pytorch-legacy",
    needles=("untime error (2)", "THCudaCheck FAIL"),
    read=_read,
)
