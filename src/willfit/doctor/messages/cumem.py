"""vLLM's sleep mode: csrc/cumem_allocator.cpp, which unsloth uses as well."""

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
        pattern=unspaced(
            r"CUDA [Ee]rror: (?:out of memory|2) at \S{0,200}?cumem_allocator\.cpp(?::\d{1,6})?"
        ),
        family="vllm-cumem",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="vllm-cumem",
    needles=("cumem_allocator",),
    read=_read,
)
