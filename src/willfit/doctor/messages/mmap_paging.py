"""Files mapped into memory, and the paging file of Windows, whatever its language."""

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
            r"unable to mmap (?P<tried_bytes>\d{1,24} bytes)"
            r"(?: from file <[^>]{0,300}>(?:: Cannot allocate memory(?: \(12\))?)?)?"
        ),
        family="mmap-paging",
    ),
    Sentence(
        # the sentence behind the number is in the user's language
        pattern=unspaced(r"(?:\[WinError 1455\]|\(os error 1455\)|error code: <1455>)"),
        family="mmap-paging",
        marks=frozenset({"windows"}),
        inside=True,
    ),
    Sentence(
        pattern=unspaced(r"\[WinError 8\]"),
        family="mmap-paging",
        marks=frozenset({"windows"}),
        inside=True,
    ),
    Sentence(
        pattern=unspaced(
            r"(?:\[Errno 12\] Cannot allocate memory|Cannot allocate memory \(os error 12\)"
            r"|mmap failed: Cannot allocate memory)"
        ),
        family="mmap-paging",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="mmap-paging",
    needles=(
        "nable to mmap",
        "bytes from file <",
        "WinError 1455",
        "os error 1455",
        "error code: <1455>",
        "Cannot allocate memory",
        "WinError 8]",
    ),
    read=_read,
)
