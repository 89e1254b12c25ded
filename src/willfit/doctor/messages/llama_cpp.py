"""llama.cpp on CUDA, ROCm and the host: ggml's refused allocations, which ollama prints too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from willfit.doctor.amounts import NUMBER
from willfit.doctor.messages.ggml import FACTS, TAIL, purposes, writer
from willfit.doctor.messages.ggml_fatal import FATAL_NEEDLES, read_fatal
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.wordings import line_wording, placed_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "llama.cpp"


_row = partial(line_wording, _FAMILY)


_TABLE: Final = (
    _row(
        rf"allocating (?P<tried_bytes>{NUMBER} MiB) on device (?P<gpu>\d{{1,3}}): "
        rf"\w{{1,12}}[Mm]alloc\w{{0,8}} failed: out of memory{TAIL}"
    ),
    _row(
        r"failed to allocate (?P<buffer>(?:CUDA|ROCm|HIP|MUSA|SYCL|CANN|OpenCL|RPC)\w{0,12}) "
        r"buffer of size (?P<tried_bytes_exact>\d{1,20})"
    ),
    _row(
        r"(?:\w{0,20}cpu\w{0,40}: failed to allocate buffer|failed to allocate "
        r"(?P<buffer>CPU\w{0,12}) buffer) of size (?P<tried_bytes_exact>\d{1,20})",
        "host",
    ),
    _row(
        rf"insufficient memory \(attempted to allocate {{1,2}}(?P<tried_bytes>{NUMBER} MB)\)",
        "host",
    ),
    _row(
        r"not enough space in the context's memory pool \(needed (?P<tried_bytes_exact>\d{1,20}), "
        r"available (?P<available_bytes_exact>\d{1,20})\)",
        "context_pool",
    ),
    _row(
        rf"failed to (?:allocate|register) (?P<tried_bytes>{NUMBER} Mi?B) of pinned memory",
        "not_fatal",
        "pinned_memory",
    ),
    _row(
        r"compute buffer allocation failed, retrying without pipeline parallelism",
        "not_fatal",
    ),
    _row(
        r"unable to allocate (?:backend (?:\w{1,10} )?|\w{1,20} )buffer"
        r"|failed to allocate (?:buffer for kv cache|compute (?:pp |tg )?buffers?\b)",
        weight="aftermath",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    family = writer(flat) or _FAMILY
    told = [
        replace(
            reading,
            family=family,
            marks=reading.marks | purposes(flat, match.start(), match.end()),
        )
        for reading, match in placed_wordings(flat, _TABLE, FACTS)
    ]
    yield from sorted([*told, *read_fatal(flat)], key=lambda reading: reading.line)


READER: Final = Reader(
    name="llama.cpp",
    needles=(
        "alloc failed: out of memory",
        " buffer of size ",
        "(attempted to allocate",
        "context's memory pool",
        "of pinned memory",
        "retrying without pipeline",
        "unable to allocate ",
        "failed to allocate buffer for kv",
        "failed to allocate compute",
        *FATAL_NEEDLES,
    ),
    read=_read,
)
