"""The GPU catalogue."""

from __future__ import annotations

from willfit.devices.catalogue import all_gpus, find_gpu
from willfit.devices.overheads import context_of, cublas_workspace_bytes
from willfit.devices.parse import ParsedMachine, format_machine, parse_machine

__all__ = [
    "ParsedMachine",
    "all_gpus",
    "context_of",
    "cublas_workspace_bytes",
    "find_gpu",
    "format_machine",
    "parse_machine",
]
