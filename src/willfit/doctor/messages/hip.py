"""PyTorch on ROCm: the CUDA allocator's message with HIP for CUDA, and no process lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.pytorch import NEEDLES, allocator_reports
from willfit.doctor.messages.reader import Reader
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report


def _read(flat: Flat) -> Iterator[Report]:
    return allocator_reports(flat, ("HIP",), "pytorch-hip")


READER: Final = Reader(name="pytorch-hip", needles=("HIP out of memory", *NEEDLES), read=_read)
