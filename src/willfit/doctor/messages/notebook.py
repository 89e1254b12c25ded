"""What Kaggle, Colab, Jupyter and Spaces say when the kernel was killed for its memory."""

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
        pattern=unspaced(r"[Yy]our notebook tried to allocate more memory than is available"),
        family="notebook",
        marks=frozenset({"kaggle"}),
        free=True,
    ),
    Sentence(
        pattern=unspaced(r"[Yy]our session crashed after using all available RAM"),
        family="notebook",
        marks=frozenset({"colab"}),
        free=True,
    ),
    Sentence(
        pattern=unspaced(r"Memory limit exceeded \((?P<limit_bytes>\d{1,6})Gi\)"),
        family="notebook",
        unit="GiB",
        marks=frozenset({"spaces"}),
    ),
    Sentence(
        # whatever killed it
        pattern=unspaced(
            r"(?:[Tt]he kernel(?: for \S{1,200}?)? appears to have died"
            r"|The Kernel crashed while executing code in the (?:current|the))"
        ),
        family="notebook",
        marks=frozenset({"maybe_not_memory"}),
        weight="aftermath",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="notebook",
    needles=(
        "notebook tried to allocate",
        "crashed after using all",
        "appears to have died",
        "Kernel crashed while",
        "Memory limit exceeded",
    ),
    read=_read,
)
