"""Outside: memory on the device that no process line explains."""

from __future__ import annotations

from typing import Final

from willfit.doctor.causes.cause import Cause, Rule, likely
from willfit.doctor.causes.numbers import NO_SIZE, Numbers, worked_out
from willfit.doctor.causes.others import held_by, processes_of
from willfit.doctor.causes.words import TORCH, has, is_of
from willfit.doctor.report import Report
from willfit.units import GIB, MIB

LIBRARIES: Final = 2 * GIB
"""The most that one process was seen to hold outside PyTorch's allocator in messages that print
both figures, with NCCL and several libraries loaded: 1.96 GiB."""
CONTEXT_ALONE: Final = GIB * 3 // 5
"""A CUDA context with the kernels of PyTorch and cuBLAS: 0.1 to 0.6 GiB by card."""
PIECE: Final = 64 * MIB
"""A driver hands out pieces and keeps some back: so little more free than asked for was not there
to be had."""
SHARE: Final = 20
"""And a twentieth of the card, as contexts grow with it."""


def _find(report: Report) -> Cause | None:
    numbers = Numbers(report)
    outside, total, free = numbers.outside, numbers.total, numbers.free
    if not is_of(report, *TORCH):
        return None
    if (
        outside is None
        or total is None
        or free is None
        or free >= (numbers.tried or NO_SIZE) + PIECE
    ):
        return None
    processes = processes_of(report)
    listed = held_by(numbers, processes)
    own, reserved = (listed.own if listed else None), numbers.reserved or 0
    held, word = (reserved, "reserved") if own is None else (own, "of this process")
    # a driver that lists one process lists this one most likely: its libraries may hold more
    alone = len(processes) == 1 and numbers.of("this_process_bytes") is None
    if total - free - held <= max(LIBRARIES * (2 if alone else 1), total // SHARE):
        return None
    text = worked_out(total, ("−", free, "free"), ("−", held, word))
    return likely(
        "other_process",
        f"{text} is held by something else: a CUDA context is 0.2 to 0.5 GiB.",
        _where(report),
    )


def context(report: Report) -> str:
    """What the difference is where it is no more than one process's own: for any other cause."""
    numbers = Numbers(report)
    outside, total, free, reserved = (
        numbers.outside, numbers.total, numbers.free, numbers.reserved,
    )  # fmt: skip
    if not is_of(report, "pytorch-cuda") or outside is None or not 0 <= outside <= LIBRARIES:
        return ""
    assert total is not None
    assert free is not None
    assert reserved is not None
    text = worked_out(total, ("−", free, "free"), ("−", reserved, "reserved"))
    own = "a CUDA context" if outside <= CONTEXT_ALONE else "a CUDA context and libraries"
    return f"{text} is not PyTorch's: {own}, no other process."


def _where(report: Report) -> str:
    if is_of(report, "pytorch-hip"):
        return "ROCm names no process: `rocm-smi --showpids` does; MIOpen's workspaces count too."
    if has(report, "windows", "wsl"):
        return "Windows names no process to PyTorch: look at the task manager's GPU memory."
    return "`nvidia-smi` names the process; NCCL and other libraries of this one count too."


RULE: Final = Rule(
    name="outside",
    mechanism="Total less free less reserved is not PyTorch's, and beyond a context it is not this "
    "process's.",
    find=_find,
)
