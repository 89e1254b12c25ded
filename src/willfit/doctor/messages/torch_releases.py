"""Releases of torch by the wording of their message: each word that came or went narrows them."""

from __future__ import annotations

import re
from typing import Final

_Range = tuple[tuple[int, int], tuple[int, int]]
_NEWEST: Final = (9, 99)
_ALL: Final[_Range] = ((0, 0), _NEWEST)

_WORDING: Final[tuple[tuple[re.Pattern[str], _Range], ...]] = (
    (re.compile(r"cached\)"), ((1, 0), (1, 3))),
    (re.compile(r"\(GPU\d{1,4};"), ((1, 0), (2, 0))),
    (re.compile(r"reservedintotalbyPyTorch\)If"), ((1, 10), (2, 0))),
    (re.compile(r"reservedintotalbyPyTorch\)(?!If)"), ((1, 4), (1, 9))),
    (re.compile(r"reservedintotal"), ((1, 4), (2, 0))),
    (re.compile(r"hasatotalcapacty"), ((2, 1), (2, 1))),
    (re.compile(r"hasatotalcapacity"), ((2, 2), _NEWEST)),
    (re.compile(r"allocatedinprivatepools"), ((2, 4), _NEWEST)),
    (re.compile(r"preemptivelyrejected"), ((2, 12), _NEWEST)),
    (re.compile(r"expandable_segmentsisenabled|MemPoolreturned"), ((2, 15), _NEWEST)),
    (re.compile(r"https://pytorch\.org/docs/stable/notes/cuda"), ((2, 2), (2, 10))),
    (re.compile(r"https://docs\.pytorch\.org/docs/stable/notes/cuda"), ((2, 11), _NEWEST)),
    (re.compile(r"GPU(?=$|[\x00-\x08\ufffd]?hasatotal)"), ((2, 3), (2, 3))),
    (re.compile(r"XPU.*capacityof[0-9.]{1,20}[a-zA-Z]{3,5}\.Of"), ((2, 5), (2, 7))),
    (re.compile(r"torch\.cuda\.OutOfMemoryError"), ((1, 13), (2, 4))),
    (re.compile(r"torch\.OutOfMemoryError"), ((2, 5), _NEWEST)),
    (re.compile(r"OutOfMemoryError"), ((1, 13), _NEWEST)),
)
"""Squeezed words and the releases that say them (first, last), most telling first; boundaries
before 2.1 are ± 1 minor. Source: the templates of c10/cuda/CUDACachingAllocator.cpp by release."""
_CUDA_ONLY: Final[tuple[tuple[re.Pattern[str], _Range], ...]] = (
    (re.compile(r"settingPYTORCH_ALLOC_CONF="), ((2, 10), (2, 10))),
    (re.compile(r"PYTORCH_CUDA_ALLOC_CONF=expandable.*https://pytorch\."), ((2, 2), (2, 9))),
)
"""Of CUDA builds alone: builds for ROCm name any of three variables."""


def torch_release(squeezed: str, backend: str | None) -> str:
    """``torch 2.4``, ``torch 1.10-2.0``, ``torch 2.5+``; "" where the words tell nothing.

    >>> torch_release("torch.OutOfMemoryError:CUDAoutofmemory.", "CUDA")
    'torch 2.5+'
    """
    first, last = _ALL
    for pattern, (since, until) in (_CUDA_ONLY if backend == "CUDA" else ()) + _WORDING:
        if max(first, since) <= min(last, until) and pattern.search(squeezed):
            first, last = max(first, since), min(last, until)
    return _spoken(first, last)


def _spoken(first: tuple[int, int], last: tuple[int, int]) -> str:
    since, until = (".".join(map(str, release)) for release in (first, last))
    if (first, last) == _ALL:
        return ""
    if last == _NEWEST:
        return f"torch {since}+"
    return f"torch {since}" if first == last else f"torch {since}-{until}"
