"""SGLang: python/sglang/srt, of 0.1 to 0.5, and the FlashInfer workspace under it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

from willfit.doctor.amounts import AMOUNT, NUMBER
from willfit.doctor.messages.numbers import Fact
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sglang_wordings import FAMILY, TABLE
from willfit.doctor.messages.wordings import read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FACTS: Final = tuple(
    Fact(pattern=re.compile(pattern))
    for pattern in (
        rf"Load weight end\..{{0,200}}?\bavail mem=(?P<available_bytes>{AMOUNT})"
        rf"(?:, mem usage=(?P<weights_bytes>{AMOUNT}))?",
        rf"Load weight begin\. avail mem=(?P<available_before_bytes>{AMOUNT})",
        r"\bmem_fraction_static=(?P<mem_fraction_static>0\.\d{1,12})",
        rf"KV Cache is allocated\..{{0,80}}?\bKV size: (?P<kv_bytes>{AMOUNT})",
        rf"\bmax_total_num_tokens=(?P<kv_tokens>{NUMBER})\b",
    )
)
_VLLM: Final = re.compile(r"\bvllm\b|EngineCore|VllmWorker")


def _read(flat: Flat) -> Iterator[Report]:
    foreign = _of_vllm(flat)
    for told in read_wordings(flat, TABLE, _FACTS):
        # the workspace is FlashInfer's, which vLLM calls too
        borrowed = foreign and "workspace" in told.marks
        yield replace(told, family="vllm" if borrowed else FAMILY, fields=_in_bytes(told.fields))


def _of_vllm(flat: Flat) -> bool:
    speakers = {line.speaker for line in flat.lines}
    named = any(_VLLM.search(text) for text in (flat.text, *speakers))
    return named or "vllm" in flat.origins


def _in_bytes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with amounts of 10⁹ bytes as bytes."""
    return {
        name.replace("_gb", "_bytes"): int(Fraction(str(value)) * 10**9)
        if name.endswith("_gb")
        else value
        for name, value in fields.items()
    }


READER: Final = Reader(
    name="sglang",
    needles=(
        "Please try to increase --mem-fraction",
        "leave no GPU memory for the KV cache",
        "Try to lower your batch size",
        "alloc_req_slots runs out",
        "--max-running-requests`",
        "even after retracting all other",
        "Not enough host memory available",
        "The memory capacity is unbalanced",
        "larger than the profiled value -",
        "KV cache pool is full. Retract",
        "ecode out of memory happened",
        "raph failed: CUDA",
        "raph failed: HIP",
        "has no attribute 'cpu'",
        "in AlignedAllocator",
    ),
    read=_read,
)
