"""JAX and XLA: its allocators on GPUs, TPUs and the host, in the wordings of 2019 to today."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from willfit.doctor.amounts import AMOUNT
from willfit.doctor.messages.numbers import NUM, UNITS, Fact
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "jax"
_SHORT: Final = rf"{NUM}(?:[KMGT]|B)"
"""XLA's compiler cuts units to a letter."""

_TABLE: Final = (
    Wording(
        pattern=unspaced(
            r"Out of memory (?:while trying to allocate|trying to allocate|allocating) "
            rf"(?P<tried_bytes>{NUM} {UNITS})"
        ),
        family=_FAMILY,
    ),
    Wording(
        pattern=unspaced(
            rf"Failed to allocate request for (?P<tried_bytes>{NUM} {UNITS}) "
            r"\((?P<tried_bytes_exact>\d{1,20})B\) on device ordinal (?P<gpu>\d{1,4})"
        ),
        family=_FAMILY,
    ),
    Wording(  # the compiler of TPUs
        pattern=unspaced(
            rf"Ran out of memory in memory space (?:\w{{1,12}}\. Used (?P<tried_bytes>{_SHORT}) of "
            rf"(?P<total_bytes>{_SHORT})[a-z]{{1,12}}\. Exceeded \w{{1,12}}? capacity by "
            rf"(?P<exceeded_bytes>{_SHORT})(?![a-z\d])|\w)"
        ),
        family=_FAMILY,
        marks=frozenset({"compile"}),
    ),
    Wording(  # the runtime of TPUs
        pattern=unspaced(
            rf"Attempting to (?:reserve|allocate) (?P<tried_bytes>{_SHORT})(?: at the \w{{3,6}} of "
            rf"memory)?\. That was not possible\. There are (?P<free_bytes>{_SHORT}) free"
        ),
        family=_FAMILY,
    ),
    Wording(
        pattern=unspaced(rf"Failed to allocate (?P<tried_bytes>{NUM} bytes) for new constant"),
        family=_FAMILY,
    ),
    Wording(  # the exception follows in another line
        pattern=unspaced(
            rf"cuMemAllocAsync failed to allocate (?P<tried_bytes>{NUM} bytes)(?:[^\n]{{0,160}}?"
            r"Free memory/Total memory: (?P<free_bytes>\d{1,15})/(?P<total_bytes>\d{1,15}))?"
        ),
        family=_FAMILY,
        weight="aftermath",
        unit="bytes",
    ),
    Wording(
        pattern=unspaced(
            rf"failed to allocate (?P<tried_bytes>{NUM}(?:[KMGT]iB|[KMGT]|B)) "
            r"\((?P<tried_bytes_exact>\d{1,20}) bytes\) from device: "
            r"(?:RESOURCE_EXHAUSTED:{1,3})?CUDA_ERROR_OUT_OF_MEMORY"
        ),
        family=_FAMILY,
        weight="aftermath",
    ),
    Wording(
        pattern=unspaced(
            r"(?:RESOURCE_EXHAUSTED|[Rr]esource exhausted): (?:[^\n]{0,60}?: )?Out of memory(?! \w)"
        ),
        family=_FAMILY,
    ),
)
_FACTS: Final = tuple(
    Fact(pattern=re.compile(pattern))
    for pattern in (
        rf"\btotal allocation: (?P<program_bytes>{AMOUNT})",
        rf"\bpreallocated temp allocation: (?P<program_temp_bytes>{AMOUNT})",
        rf"\bparameter allocation: (?P<program_parameter_bytes>{AMOUNT})",
        rf"\bmaybe_live_out allocation: (?P<program_output_bytes>{AMOUNT})",
    )
)
TENSORFLOW: Final = re.compile(
    r"tensorflow\.(?:python|org)|(?<!org_tensorflow/)tensorflow/(?:core|python|stream_executor)/"
    r"|\[Op:|\[\[\{?\{?node|\bkeras\b"
)
"""Words of TensorFlow's own; paths of org_tensorflow are in JAX's logs too."""
JAX: Final = re.compile(r"\bjax(?:lib)?\b|XlaRuntimeError|JaxRuntimeError")


def _read(flat: Flat) -> Iterator[Report]:
    """TensorFlow compiles with XLA too; its words decide."""
    own = "tensorflow" in flat.origins or TENSORFLOW.search(flat.text) is not None
    foreign = own and not JAX.search(flat.text)
    for told in read_wordings(flat, _TABLE, _FACTS):
        yield replace(told, family="tensorflow") if foreign else told


READER: Final = Reader(
    name="jax",
    needles=(
        "ut of memory while trying to allocate",
        "ut of memory trying to allocate",
        "ut of memory allocating",
        "Failed to allocate request for",
        "Ran out of memory in memory space",
        "That was not possible. There are",
        "bytes for new constant",
        "cuMemAllocAsync failed",
        "from device: CUDA_ERROR_OUT_OF",
        "from device: RESOURCE_EXHAUSTED",
        "RESOURCE_EXHAUSTED: Out of memory",
        "esource exhausted: Out of memory",
    ),
    read=_read,
)
