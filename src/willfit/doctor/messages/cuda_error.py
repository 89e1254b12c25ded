"""The driver's own refusal, which has no numbers, as torch, RMM and ONNX Runtime pass it on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.sentences import Sentence, read_sentences
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_NOT_OURS: Final = r"(?! current device:| cuMem| at \S{0,80}cumem_allocator)"
"""What follows the same words where other programs say them."""

_TABLE: Final = (
    Sentence(
        pattern=unspaced(rf"CUDA (?:driver )?[Ee]rror: out of memory{_NOT_OURS}"),
        family="cuda-error",
    ),
    Sentence(
        pattern=unspaced(r"HIP (?:driver )?error: out of memory"),
        family="cuda-error",
        marks=frozenset({"hip"}),
    ),
    Sentence(
        pattern=unspaced(
            r"(?:std::bad_alloc: )?(?:out_of_memory: )?"
            r"(?:cudaErrorMemoryAllocation|hipErrorOutOfMemory)"
        ),
        family="cuda-error",
    ),
    Sentence(
        pattern=unspaced(r"CUDA failure 2: out of memory"),
        family="cuda-error",
        marks=frozenset({"onnxruntime"}),
    ),
    Sentence(  # Caffe and MXNet
        pattern=unspaced(
            r"(?:Check failed: \w{1,12} == cudaSuccess[^\n]{0,12}?[^\n]{0,2}?)out of memory(?!\w)"
        ),
        family="cuda-error",
        marks=frozenset({"caffe"}),
        inside=True,
    ),
    Sentence(  # checks of CUDA calls that name only their file: torch's profiler, DGL
        pattern=unspaced(r"\.(?:cpp|cu|cc|h|cuh):\d{1,5}: out of memory(?!\w)"),
        family="cuda-error",
        inside=True,
    ),
    Sentence(  # spconv, cumm
        pattern=unspaced(r"cuda failed with error 2 out of memory"),
        family="cuda-error",
    ),
    Sentence(  # TensorRT's allocator
        pattern=unspaced(r"Cuda Error in \w{1,60}: 2 \(out of memory\)"),
        family="cuda-error",
        marks=frozenset({"tensorrt"}),
        inside=True,
    ),
    Sentence(
        pattern=unspaced(r"CUDA_ERROR_OUT_OF_MEMORY"),
        family="cuda-error",
        weight="aftermath",
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_sentences(flat, _TABLE)


READER: Final = Reader(
    name="cuda-error",
    needles=(
        "rror: out of memory",
        "rror:out of memory",
        "== cudaSuccess",
        "error 2 out of memory",
        ": out of memory",
        "2 (out of memory)",
        "MemoryAllocation",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "failure 2: out of memory",
        "hipErrorOutOfMemory",
    ),
    read=_read,
)
