"""llama.cpp on Metal: ggml-metal, where the process lives on with wrong results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from willfit.doctor.amounts import NUMBER
from willfit.doctor.messages.ggml import FACTS, purposes, writer
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.wordings import line_wording, placed_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "llama.cpp-metal"


_row = partial(line_wording, _FAMILY)


_TABLE: Final = (
    _row(
        r"ggml_metal_\w{1,30}: (?:error: )?command buffer \d{1,3} failed with status \d"
        r".{0,120}?Insufficient Memory(?: \(\d{8}:kIOGPU\w{1,60}\))?"
    ),
    _row(  # without a reason: 5 is any error
        r"ggml_metal_\w{1,30}: (?:error: )?command buffer \d{1,3} failed with status 5"
        r"(?! ?(?:\S{1,60} )?[Ee]rror: )",
        "no_reason",
    ),
    _row(
        r"ggml_metal_\w{1,30}: (?:error: )?failed to allocate (?:'[^']{1,60}' )?buffer, size = "
        rf"(?P<tried_bytes>{NUMBER} Mi?B)"
    ),
    _row(
        r"failed to allocate (?P<buffer>(?:Metal|MTL)\w{0,12}) buffer of size "
        r"(?P<tried_bytes_exact>\d{1,20})"
    ),
    _row(
        rf"allocated buffer, size = (?P<tried_bytes>{NUMBER}) MiB, \( ?(?P<used_bytes>{NUMBER}) / "
        rf"(?P<working_set_bytes>{NUMBER})\)\S{{0,2}} ?.{{0,60}}?current allocated size is greater "
        r"than the recommended max working set size",
        "not_fatal",
        unit="MiB",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    family = "ollama" if writer(flat) == "ollama" else _FAMILY
    for told, match in placed_wordings(flat, _TABLE, FACTS):
        yield replace(
            told,
            family=family,
            marks=told.marks | purposes(flat, match.start(), match.end()),
        )


READER: Final = Reader(
    name="llama.cpp-metal",
    needles=(
        "failed with status 5",
        "kIOGPUCommandBufferCallback",
        "buffer, size = ",
        "failed to allocate M",
        "recommended max working set size",
    ),
    read=_read,
)
