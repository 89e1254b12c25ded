"""cuBLAS, cuDNN and their kin: a handle or a workspace that could not be had."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_TABLE: Final = (
    Sentence(
        pattern=unspaced(
            r"(?:CUDA error: |cuBLAS error: )?CUBLAS_STATUS_ALLOC_FAILED"
            r"(?: when calling `?\w{1,60}(?:\([^`]{0,200}\))?`?)?"
        ),
        family="cublas",
    ),
    Sentence(
        # a bad index or driver reads the same
        pattern=unspaced(
            r"(?:CUDA error: |cuBLAS error: )?CUBLAS_STATUS_NOT_INITIALIZED"
            r"(?: when calling `?\w{1,60}(?:\([^`]{0,200}\))?`?)?"
        ),
        family="cublas",
        marks=frozenset({"maybe_not_memory"}),
    ),
    Sentence(
        pattern=unspaced(
            r"(?:cuDNN error: )?CUDNN_STATUS_"
            r"(?:ALLOC_FAILED|INTERNAL_ERROR_\w{0,40}ALLOCATION\w{0,20})"
        ),
        family="cublas",
        marks=frozenset({"cudnn"}),
    ),
    Sentence(
        pattern=unspaced(
            r"(?:cuDNN error: )?CUDNN_STATUS_"
            r"(?:NOT_INITIALIZED|NOT_SUPPORTED|INTERNAL_ERROR|EXECUTION_FAILED)"
        ),
        family="cublas",
        marks=frozenset({"cudnn", "maybe_not_memory"}),
    ),
    Sentence(
        pattern=unspaced(
            r"(?:CUSOLVER_STATUS_ALLOC_FAILED|CUSPARSE_STATUS_ALLOC_FAILED"
            r"|CUSPARSE_STATUS_INSUFFICIENT_RESOURCES|CUFFT_ALLOC_FAILED)"
        ),
        family="cublas",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="cublas",
    needles=(
        "CUBLAS_STATUS_",
        "CUDNN_STATUS_",
        "CUSOLVER_STATUS_",
        "CUSPARSE_STATUS_",
        "CUFFT_ALLOC_FAILED",
    ),
    read=_read,
)
