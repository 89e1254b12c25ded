"""Words: what a rule asks of a report besides its numbers."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.report import Report

TORCH: Final = ("pytorch-cuda", "pytorch-hip", "pytorch-legacy")
"""Families whose allocator is PyTorch's caching allocator."""
DEVICES: Final = (*TORCH, "pytorch-xpu", "pytorch-npu", "mps", "cuda-error", "cublas",
                  "nvml-assert", "triton", "nccl")  # fmt: skip
"""Families of messages that PyTorch or a library under it prints about a device."""
TRAINING: Final = ("train-forward", "train-backward", "optimizer-step", "eval", "save", "resume")


def is_of(report: Report, *families: str) -> bool:
    """Whether the report's family, or one of those joined by ``+``, is one of these."""
    return not set(report.family.split("+")).isdisjoint(families)


def says(report: Report, pattern: re.Pattern[str]) -> bool:
    """Whether the message itself has the words."""
    return pattern.search(report.quote) is not None


def near(report: Report, pattern: re.Pattern[str]) -> str:
    """The words where the message or a line at it has them, else ``""``."""
    for text in (report.quote, *report.context.nearby):
        match = pattern.search(text)
        if match is not None:
            return match[0]
    return ""


def in_frames(report: Report, pattern: re.Pattern[str]) -> str:
    """The words where a frame ``file|function|code`` has them, innermost first, else ``""``."""
    for frame in reversed(report.context.frames):
        match = pattern.search(f"{frame.file}|{frame.function}|{frame.code}")
        if match is not None:
            return match[0].strip("|")
    return ""


def has(report: Report, *clues: str) -> bool:
    """Whether one of the clues stands around the report."""
    return not report.context.clues.isdisjoint(clues)


def marked(report: Report, *marks: str) -> bool:
    """Whether the wording's reader has set one of these marks."""
    return not report.marks.isdisjoint(marks)
