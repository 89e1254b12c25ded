"""PyTorch on Ascend NPUs: the CUDA allocator's message of 1.x with NPU for CUDA and GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.pytorch import NEEDLES, allocator_reports
from willfit.doctor.messages.reader import Reader
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report


def _read(flat: Flat) -> Iterator[Report]:
    return allocator_reports(flat, ("NPU",), "pytorch-npu")


READER: Final = Reader(name="pytorch-npu", needles=("NPU out of memory", *NEEDLES), read=_read)
