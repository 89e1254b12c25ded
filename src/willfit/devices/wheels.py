"""Which GPUs the published torch wheels have kernels for."""

from __future__ import annotations

from typing import Final

from willfit.scenario.machine import Gpu
from willfit.scenario.stack import Stack

OLDEST_SM: Final = (("2.11", 75), ("2.8", 70), ("2.0", 50))
"""Oldest compute capability in the wheel that pip installs, by the release it began with.

2.13 (CUDA 13.0): its own ``torch._C._cuda_getArchFlags()`` begins with sm_75. 2.11 dropped sm_70
from the CUDA 12.8 wheels too (github.com/pytorch/pytorch/pull/175253), 2.8 dropped sm_60
(github.com/pytorch/pytorch/issues/157517)."""
BLACKWELL_SINCE: Final = "2.8"
"""First release whose default wheel (CUDA 12.8) has sm_100 and sm_120; 2.7 had another wheel."""


def no_kernels(gpu: Gpu, stack: Stack) -> str | None:
    """Why the stack's torch cannot run on this GPU; None where it can, or it is not NVIDIA's."""
    if gpu.vendor != "nvidia":
        return None
    torch = stack.versions["torch"]
    oldest = next((sm for since, sm in OLDEST_SM if stack.at_least("torch", since)), 0)
    if gpu.sm < oldest:
        return (
            f"torch {torch} as pip installs it has no kernels below sm_{oldest}, and the "
            f"{gpu.name} is sm_{gpu.sm}: 'no kernel image is available'"
        )
    if gpu.sm >= 100 and not stack.at_least("torch", BLACKWELL_SINCE):
        return (
            f"torch {torch} as pip installs it has no kernels for sm_{gpu.sm} ({gpu.name}): "
            f"use {BLACKWELL_SINCE} or later"
        )
    return None
