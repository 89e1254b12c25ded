"""vLLM: what the engine says when its memory budget does not hold the model and its cache."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.vllm_facts import FACTS
from willfit.doctor.messages.vllm_traces import TRACE_NEEDLES, read_traces
from willfit.doctor.messages.vllm_wordings import TABLE
from willfit.doctor.messages.wordings import read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report


def _read(flat: Flat) -> Iterator[Report]:
    told = read_wordings(flat, TABLE, FACTS)
    yield from sorted(chain(told, read_traces(flat)), key=lambda reading: reading.line)


READER: Final = Reader(
    name="vllm",
    needles=(
        "No available memory for",
        "memory for the cache blocks",
        "is larger than the maximum number of",
        "can be stored in KV cache",
        "KV cache is needed",
        "available KV cache memory (",
        "Cannot auto-fit max_model_len",
        "GiB) on startup",
        "is less than desired",
        "when warming up sampler",
        "when warming up pooler",
        "Error in memory profiling",
        "Too large swap space",
        "the capacity of block_manager",
        "not enough GPU memory",
        "not enough KV cache space",
        "Engine core initialization failed",
        "EngineCore failed to start",
        "Engine process failed to start",
        *TRACE_NEEDLES,
    ),
    read=_read,
)
