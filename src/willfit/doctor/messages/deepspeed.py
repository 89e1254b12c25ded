"""DeepSpeed: the workspace of its inference kernels and the cache of its ragged engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.numbers import NUM
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "deepspeed"

_TABLE: Final = (
    Wording(  # the three amounts are printed by themselves, in front
        pattern=unspaced(
            rf"(?:Requested: (?P<tried_bytes>{NUM}) Free: (?P<free_bytes>{NUM}) Total: "
            rf"(?P<total_bytes>{NUM})[^\n]{{0,400}}?)?"
            r"Workspace can't be allocated, not? enough memory"
        ),
        family=_FAMILY,
        unit="bytes",
        marks=frozenset({"workspace"}),
    ),
    Wording(
        pattern=unspaced(
            r"Insufficient memory to allocate KV-caches\. Required: (?P<kv_needed_bytes>\d{1,16}), "
            r"Available: (?P<kv_available_bytes>-?\d{1,16})"
        ),
        family=_FAMILY,
        unit="bytes",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_wordings(flat, _TABLE)


READER: Final = Reader(
    name="deepspeed",
    needles=("Workspace can't be allocated", "Insufficient memory to allocate KV"),
    read=_read,
)
