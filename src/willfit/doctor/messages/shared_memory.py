"""Shared memory of DataLoader workers: torch/utils/data and aten/src/ATen/MapAllocator.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_RAISED: Final = Sentence(
    pattern=unspaced(
        r"DataLoader worker \(pid(?:\(s\))? \d{1,10}\) is killed by signal: Bus error"
        r"(?:\. It is possible that dataloader's workers are out of shared memory\.)?"
    ),
    family="dataloader-shm",
)
_TABLE: Final = (
    Sentence(
        pattern=unspaced(
            r"Unexpected bus error encountered in worker\. "
            r"This might be caused by insufficient shared memory(?: \(shm\))?"
        ),
        family="dataloader-shm",
    ),
    Sentence(
        pattern=unspaced(
            r"unable to (?:allocate shared memory(?: ?\(shm\))?(?: for file)?|resize file"
            r"|write to file) <[^>]{0,200}>(?: to the right size)?"
            r"(?:: [A-Z][a-z ]{1,60}\(\d{1,3}\))?"
        ),
        family="dataloader-shm",
    ),
    Sentence(
        pattern=unspaced(r"Bus error \(core dumped\)"),
        family="dataloader-shm",
        marks=frozenset({"maybe_not_memory"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    # the worker's own line and the exception of its parent tell of the same failure
    raised = list(read_sentences(flat, (_RAISED,)))
    return iter(raised or list(read_sentences(flat, _TABLE)))


READER: Final = Reader(
    name="dataloader-shm",
    needles=(
        "nsufficient shared memory",
        "killed by signal: Bus error",
        "out of shared memory",
        "allocate shared memory",
        "unable to resize file",
        "unable to write to file",
        "Bus error",
    ),
    read=_read,
)
