"""Disguised: assertions and library errors that stand where an out-of-memory message would."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.causes.cause import Cause, Rule, certain, guess, likely
from willfit.doctor.causes.words import TRAINING, has, is_of, says
from willfit.doctor.report import Report

_POISONED: Final = re.compile(r"!handles_\.at")
_INIT: Final = re.compile(r"nvmlInit|GetHandleByPciBusId")
_WHEEL: Final = re.compile(r'"/(?:__w/pytorch/)?pytorch/c10')
_OWN_BUILD: Final = re.compile(r'"(?!/pytorch/|/__w/)[^"]{1,200}/pytorch/c10|"/opt/pytorch')
_LOST: Final = (
    "The allocator was about to say how much was missing and could not ask NVML: it is an "
    "out-of-memory error without its numbers"
)


def _find(report: Report) -> Cause | None:
    if is_of(report, "triton"):
        return likely(
            "jit_overhead",
            "The driver had no memory left to load a compiled kernel: the "
            "pool of the engine or of PyTorch had taken all of it.",
        )
    if says(report, _POISONED):
        return guess(
            "activations_batch_seq",
            "An earlier allocation failed and left the segment "
            "broken: the first error above is the one to look at; restart.",
        )
    return _nvml(report) if is_of(report, "nvml-assert") else None


def _nvml(report: Report) -> Cause:
    numbers = _how_to(report)
    stage = report.context.stage
    if stage in ("load", "serve-init"):
        return likely(
            "model_too_big", f"{_LOST}.", "It failed while weights were placed.", *numbers
        )
    if has(report, "jetson") or says(report, _OWN_BUILD):
        return guess(
            "unified_memory",
            f"{_LOST}.",
            "This PyTorch was built for its machine, as on "
            "Jetson, where NVML is incomplete and memory is shared.",
            *numbers,
        )
    if stage in TRAINING or stage in ("generate", "inference"):
        return guess("activations_batch_seq", f"{_LOST}.", *numbers)
    if says(report, _INIT):
        return guess(
            "unknown",
            f"{_LOST}.",
            "NVML did not even start: a driver that was updated "
            "under a running system does that; a restart shows it.",
            *numbers,
        )
    if says(report, _WHEEL):
        return guess(
            "model_too_big",
            f"{_LOST}.",
            "With an official wheel NVML fails on a slice of "
            "a card (MIG), which has a fraction of its memory.",
            *numbers,
        )
    return guess(
        "unified_memory",
        f"{_LOST}.",
        "Where NVML fails so, GPU and system often share "
        "memory (Jetson), or a slice of a card (MIG) is used.",
        *numbers,
    )


def _how_to(report: Report) -> tuple[str, ...]:
    of = (f"The line is that of {report.release}.",) if report.release else ()
    return (*of, "torch.cuda.memory_summary() in an `except`, or torch 2.14, gives the numbers.")


def _sure(report: Report) -> Cause | None:
    if is_of(report, "nccl"):
        return certain(
            "nccl_buffers",
            "NCCL asked the device for its own buffers, outside "
            "PyTorch's allocator, and the device was full.",
        )
    return None


RULE: Final = Rule(
    name="disguised",
    mechanism="The error is raised while the out-of-memory message is built, or by a library that "
    "has no words for it.",
    find=lambda report: _find(report) or _sure(report),
)
