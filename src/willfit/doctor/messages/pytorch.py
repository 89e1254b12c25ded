"""PyTorch's caching allocators: c10/cuda/CUDACachingAllocator.cpp of 1.0 to 2.15 and its kin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from willfit.doctor.amounts import read_amount
from willfit.doctor.messages.quotation import is_said
from willfit.doctor.messages.reader import Reader, report
from willfit.doctor.messages.squeezed import Squeezed
from willfit.doctor.messages.torch_clauses import Clauses, torch_messages
from willfit.doctor.messages.torch_releases import torch_release
from willfit.doctor.messages.writers import Writers
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

NOT_KNOWN_BYTES: Final = 2**60
"""From here on an amount is 2⁶⁴ − 1 in disguise: what NVML says where it does not know."""

_AMOUNTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("tried_bytes", ("tried", "requested")),
    ("total_bytes", ("total", "old_total")),
    ("free_bytes", ("free", "old_free")),
    ("allocated_bytes", ("allocated", "listed_allocated", "old_allocated")),
    ("reserved_bytes", ("reserved",)),
    ("reserved_unallocated_bytes", ("unallocated", "cached")),
    ("private_pools_bytes", ("pools",)),
    ("this_process_bytes", ("this",)),
    ("allowed_bytes", ("allowed",)),
)
"""Fields and the clauses that carry them."""
_MARKS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    ("typo_capacty", re.compile(r"totalcapacty")),
    ("advises_split", re.compile(r"trysettingmax_split_size_mb")),
    ("advises_expandable", re.compile(r"trysetting\w{1,40}=expandable_segments:True")),
    ("expandable_on", re.compile(r"expandable_segmentsisenabled")),
    ("rejected_early", re.compile(r"preemptivelyrejected")),
    ("mempool", re.compile(r"backingthisMemPoolreturnednullptr")),
    ("va_reserve", re.compile(r"expandable-segmentreserve")),
    ("nul_bug", re.compile(r"GPU(?=$|[\x00-\x08\ufffd]?hasatotal)")),
)
_WORD: Final = re.compile(r" ?\w")
_CLASS: Final = re.compile(r"(?:torch\.(?:cuda\.)?)?OutOfMemoryError:?$")


def allocator_reports(
    flat: Flat, backends: tuple[str | None, ...], family: str
) -> Iterator[Report]:
    """The messages of these back ends; None stands for messages without their first words."""
    squeezed = Squeezed(flat)
    writers = Writers(flat)
    said: dict[str, str] = {}
    for message, end in torch_messages(squeezed):
        if message.backend in backends and _stands(squeezed, message):
            amounts = _amounts(squeezed, message)
            # not a logger's echo of the first sentence
            if not amounts.items() < said.items():
                said = amounts
                yield _report(squeezed, message, end, writers, family)


def _stands(squeezed: Squeezed, message: Clauses) -> bool:
    flat, words_only = squeezed.flat, len(message.found) == 1
    stretch = squeezed.stretch(message.start, message.found[0][1].end())
    if words_only and _goes_on(flat, stretch.end()):
        return False
    return is_said(flat, stretch.start(), stretch.end(), words_only=words_only)


def _goes_on(flat: Flat, end: int) -> bool:
    """Whether the sentence is another: ``CUDA out of memory occurred when``."""
    same_line = end + 1 < len(flat.text) and flat.index_at(end + 1) == flat.index_at(end - 1)
    return same_line and _WORD.match(flat.text, end) is not None


def _report(
    squeezed: Squeezed, message: Clauses, end: int, writers: Writers, family: str
) -> Report:
    named = _CLASS.search(squeezed.text[max(0, message.start - 40) : message.start])
    words = (named[0] if named else "") + squeezed.text[message.start : end]
    stretch = squeezed.stretch(message.start, end)
    return replace(
        report(
            squeezed.flat,
            stretch,
            family=writers.family(stretch.start(), family),
            fields=_fields(message),
            amounts=_amounts(squeezed, message),
        ),
        release=torch_release(words, message.backend),
        marks=frozenset(_marks(message, words)),
        weight="numbers" if len(message.found) > 1 else "words",
    )


def _amounts(squeezed: Squeezed, message: Clauses) -> dict[str, str]:
    read = ((name, message.first(*groups)) for name, groups in _AMOUNTS)
    return {name: squeezed.amount(*found) for name, found in read if found is not None}


def _fields(message: Clauses) -> dict[str, Any]:
    gpu = message.first("gpu", "old_gpu")
    told = message.keys - {"backend", "tried"}
    processes = [
        {"pid": int(match["pid"]), "bytes": _bytes(match["used"])}
        for _, match in message.found
        if match["pid"] is not None and _bytes(match["used"]) < NOT_KNOWN_BYTES
    ]
    return {
        # of a device that is told of: a message that stops before it has none
        "backend": message.backend if told else None,
        "gpu": int(gpu[0][gpu[1]]) if gpu else None,
        "tried": ">1EB" if message.first("huge") else None,
        "processes": processes or None,
    }


def _marks(message: Clauses, words: str) -> Iterator[str]:
    yield from (name for name, pattern in _MARKS if pattern.search(words))
    last = {"reserved", "unallocated"} & message.keys
    if message.backend is None or ("tried" in message.keys and not last and not _whole(message)):
        yield "cut_off"
    used = (match["used"] for _, match in message.found if match["used"] is not None)
    if any(_bytes(amount) >= NOT_KNOWN_BYTES for amount in used):
        yield "na_process"


def _whole(message: Clauses) -> bool:
    return message.first("huge", "requested") is not None


def _bytes(amount: str) -> int:
    return read_amount(amount).num_bytes


def _read(flat: Flat) -> Iterator[Report]:
    return allocator_reports(flat, ("CUDA", None), "pytorch-cuda")


NEEDLES: Final = (
    "ried to allocate", "total capac", "allocated by PyTorch", "reserved by PyTorch",
    "reserved in total by", "iB memory in use",
)  # fmt: skip
"""Of any back end: where a line was broken inside one of them, another is whole."""

READER: Final = Reader(name="pytorch-cuda", needles=("CUDA out of memory", *NEEDLES), read=_read)
