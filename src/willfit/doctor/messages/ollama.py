"""ollama: its scheduler's refusals, what it says of a runner that died, and its estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from willfit.doctor.amounts import AMOUNT, NUMBER
from willfit.doctor.messages.ggml import TAIL
from willfit.doctor.messages.ollama_offload import FACTS, OFFLOAD_NEEDLES, read_offload
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.wordings import line_wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "ollama"
_row = partial(line_wording, _FAMILY)


_ENDED: Final = r"llama(?: runner|-server) process (?:has terminated|no longer running):"

_TABLE: Final = (
    _row(
        rf"requires more system memory \((?P<host_required_bytes>{AMOUNT})\) than is available "
        rf"\((?P<host_available_bytes>{AMOUNT})\)",
        "host",
    ),
    _row(r"model requires more system memory than is currently available(?!, evicting)", "host"),
    _row(
        rf'model request too large for system"? requested="?(?P<host_required_bytes>{AMOUNT})"? '
        rf'available="?(?P<host_available_bytes>{NUMBER}(?: [KMGT]i?B)?)\b',
        "host",
        unit="bytes",
    ),
    _row(
        rf"model requires (?P<required_full_bytes>{AMOUNT}) but only "
        rf"(?P<gpu_available_bytes>{AMOUNT}) are available"
    ),
    _row(
        r"insufficient memory for image generation: need "
        rf"(?P<required_full_bytes>{NUMBER} GB), have (?P<gpu_available_bytes>{NUMBER} GB)"
    ),
    _row(r"insufficient memory - required allocations: \{"),
    _row(r"model is too large for system memory\b", "host"),
    _row(
        rf"{_ENDED} .{{0,80}}?(?:cudaMalloc failed: out of memory|(?:CUDA|ROCm) error: "
        rf"(?:out of memory|the resource allocation failed|CUBLAS_STATUS_ALLOC_FAILED)){TAIL}"
        r"(?: current device: (?P<gpu>\d{1,3}), in function (?P<function>\w{1,80}))?",
        weight="aftermath",
    ),
    _row(rf"{_ENDED} .{{0,160}}?(?:unable to|failed to) allocate", weight="aftermath"),
    _row(rf"{_ENDED} .{{0,80}}?Insufficient Memory", weight="aftermath"),
    # weights were placed by then; the cache and the working buffers are what a context is
    _row(rf"{_ENDED} .{{0,80}}?failed to create context", "context"),
    _row(rf"{_ENDED} .{{0,40}}?signal: killed", "host", "killed"),
    # abort() on Windows: how an allocation that throws ends there
    _row(rf"{_ENDED} .{{0,40}}?exit status 0xc0000409", "abort"),
    _row(r"llama-server reported out-of-memory during startup", weight="aftermath"),
    _row(r"runtime OOM detected; expiring loaded models", weight="aftermath"),
    _row(
        r"model runner has unexpectedly stopped, this may be due to resource limitations",
        "no_reason",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    told = [_weighed(reading) for reading in read_wordings(flat, _TABLE, FACTS)]
    yield from sorted([*told, *read_offload(flat)], key=lambda reading: reading.line)


def _weighed(told: Report) -> Report:
    """A runner's last words with a size are a report of their own."""
    sized = "tried_bytes_exact" in told.fields
    return replace(told, weight="numbers") if sized else told


READER: Final = Reader(
    name="ollama",
    needles=(
        "requires more system memory",
        "model request too large for system",
        "are available (after",
        "insufficient memory for image",
        "insufficient memory - required",
        "model is too large for system",
        "process has terminated:",
        "process no longer running:",
        "reported out-of-memory during startup",
        "runtime OOM detected",
        "model runner has unexpectedly stopped",
        *OFFLOAD_NEEDLES,
    ),
    read=_read,
)
