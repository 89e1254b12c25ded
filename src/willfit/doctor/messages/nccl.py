"""NCCL: buffers of the collectives, which come from outside torch's allocator."""

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
        # ranks of one machine talk through files there, made in full before they are used
        pattern=unspaced(
            r"(?:NCCL WARN )?(?:Call to posix_fallocate failed: No space left on device"
            r"|(?:Error: )?failed to extend /dev/shm/nccl-\w{1,40} to \d{1,12} bytes)"
        ),
        family="nccl",
        marks=frozenset({"shm"}),
    ),
    Sentence(
        # its allocator says the same once more, with the size
        pattern=unspaced(
            r"(?:NCCL WARN )?Cuda failure(?: 2)? 'out of memory'"
            r"(?:[^'\n]{0,120}?NCCL WARN Failed to CUDA (?:calloc|malloc|host alloc)(?: async)? "
            r"(?P<tried_bytes>\d{1,24} bytes))?"
        ),
        family="nccl",
    ),
    Sentence(
        pattern=unspaced(
            r"(?:NCCL WARN )?Failed to CUDA (?:calloc|malloc|host alloc)(?: async)? "
            r"(?P<tried_bytes>\d{1,24} bytes)"
        ),
        family="nccl",
    ),
    Sentence(
        # a driver or a network may be what failed
        pattern=unspaced(r"(?:NCCL Error 1: unhandled cuda error|ncclUnhandledCudaError)"),
        family="nccl",
        marks=frozenset({"maybe_not_memory"}),
        weight="aftermath",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="nccl",
    needles=(
        "NCCL WARN",
        "failure 'out of memory'",
        "2 'out of memory'",
        "CUDA calloc",
        "CUDA malloc",
        "posix_fallocate failed",
        "/dev/shm/nccl-",
        "unhandled cuda error",
        "ncclUnhandledCudaError",
    ),
    read=_read,
)
