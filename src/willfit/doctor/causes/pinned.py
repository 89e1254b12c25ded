"""Pinned and managed host memory: refused by CUDA, though neither card nor RAM is full."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, guess, likely
from willfit.doctor.causes.numbers import Numbers
from willfit.doctor.causes.words import TORCH, has, in_frames, is_of, says
from willfit.doctor.report import Report

_MANAGED: Final = re.compile(r"pythonInterface|cget_managed_ptr|cudaMallocManaged")
_HOST: Final = re.compile(r"pin_memory|cudaHostAlloc|HostAllocator|cudaHostRegister|non_bl")
_PLACED: Final = re.compile(r"\.to\([^)]{0,60}non_bl|pin_memory\(")


def _find(report: Report) -> Cause | None:
    if says(report, _MANAGED):
        return likely(
            "pinned_host_memory",
            "This line of bitsandbytes makes managed memory, of a "
            "paged optimizer: it is host memory that CUDA pages, scarce on WSL.",
        )
    if is_of(report, "cuda-error") and (in_frames(report, _PLACED) or says(report, _HOST)):
        return guess(
            "pinned_host_memory",
            "A copy that does not block needs pinned host memory, and "
            "it is the driver that refused, not PyTorch's allocator.",
        )
    numbers = Numbers(report)
    if not is_of(report, *TORCH) or not has(report, "deepspeed", "zero_offload"):
        return None
    if not (numbers.is_spilling_driver or has(report, "wsl")):
        return None
    total = f" of {amount(numbers.total)}" if numbers.total else ""
    return likely(
        "pinned_host_memory",
        f"DeepSpeed's launcher on a driver that reports like "
        f"Windows' (0 bytes free{total}) is WSL: offloaded states are pinned, and pinned "
        "memory is limited there.",
    )


RULE: Final = Rule(
    name="pinned host memory",
    mechanism="Pinned and managed memory come from a pool of their own, which WSL keeps small.",
    find=_find,
)
