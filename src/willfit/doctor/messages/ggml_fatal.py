"""ggml's fatal errors of CUDA and ROCm: a call that failed, where, and no numbers of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.ggml import AMBIGUOUS, FACTS, writer
from willfit.doctor.messages.numbers import Facts, add_facts
from willfit.doctor.messages.quotation import is_said
from willfit.doctor.messages.reader import report
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

FATAL_NEEDLES: Final = (
    "CUDA error: ",
    "ROCm error: ",
    "HIP error: ",
    "MUSA error: ",
    "CUDA error 2 at ",
    "cuBLAS error ",
)

_ERROR: Final = re.compile(
    r"(?:CUDA|ROCm|HIP|MUSA) error: (?:out of memory|the resource allocation failed|"
    r"CUBLAS_STATUS_(?:ALLOC_FAILED|NOT_INITIALIZED)(?! when calling))"
)
_OLD: Final = re.compile(
    r"(?:CUDA error 2|cuBLAS error [13]) at \S{1,200}: "
    r"(?:out of memory|the resource allocation failed|the library was not initialized)"
)
"""Of 2023."""
_WHERE: Final = re.compile(r"current device: (?P<gpu>\d{1,3}), in function (?P<function>\w{1,80})")
_CALL: Final = re.compile(
    r"cuMem(?:Create|AddressReserve|Map)\(|ggml[-_]cuda|GGML_ASSERT|cublasCreate"
)
_RESERVE: Final = re.compile(r"cuMemAddressReserve\(")
_LOAD: Final = re.compile(
    r"llm_load_|llama_model_loader: |print_info: |load_tensors: |ggml_cuda_init"
)
_NEAR: Final = 400
"""Length of the block behind its first line, in characters."""


def read_fatal(flat: Flat) -> Iterator[Report]:
    """``CUDA error:`` with ggml's lines around it; torch's has none of them."""
    loads, author = _LOAD.search(flat.text), writer(flat)
    facts = Facts(flat, FACTS if _ERROR.search(flat.text) else ())
    for match in _ERROR.finditer(flat.text):
        block = flat.text[match.end() : match.end() + _NEAR]
        loading = loads is not None and loads.start() < match.start()
        if (_WHERE.search(block) or _CALL.search(block) or loading) and _said(flat, match):
            told = _fatal(flat, match, block, author)
            yield add_facts(told, facts.near(match.start(), match.end()))
    for match in _OLD.finditer(flat.text):
        if _said(flat, match):
            yield report(flat, match, family=author or "llama.cpp", weight="words")


def _said(flat: Flat, match: re.Match[str]) -> bool:
    return is_said(flat, match.start(), match.end(), words_only=True)


def _fatal(flat: Flat, match: re.Match[str], block: str, author: str) -> Report:
    """The virtual-memory call that reserves addresses is named in llama.cpp's reports alone."""
    where, reserves = _WHERE.search(block), _RESERVE.search(block) is not None
    family = author or ("llama.cpp" if reserves else "")
    marks = {"address_space": reserves, AMBIGUOUS: not family}
    return report(
        flat,
        match,
        family=family or "ollama",
        weight="words",
        fields={
            "gpu": int(where["gpu"]) if where else None,
            "function": where["function"] if where else None,
        },
        marks=frozenset(mark for mark, holds in marks.items() if holds),
    )
