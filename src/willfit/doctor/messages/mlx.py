"""MLX: mlx/backend/metal and mlx/backend/cuda, and the warning of mlx-lm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from willfit.doctor.messages.numbers import NUM
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "mlx"

_TABLE: Final = (
    Wording(
        pattern=unspaced(r"\[METAL\] Command buffer execution failed: Insufficient Memory"),
        family=_FAMILY,
    ),
    Wording(  # malloc_or_wait until 0.22
        pattern=unspaced(
            rf"\[(?:metal::)?malloc\w{{0,12}}\] Unable to allocate (?P<tried_bytes>{NUM} bytes)"
        ),
        family=_FAMILY,
    ),
    Wording(
        pattern=unspaced(
            rf"(?:\[(?:metal::)?malloc\w{{0,12}}\] )?Attempting to allocate "
            rf"(?P<tried_bytes>{NUM} bytes) which is greater than the maximum allowed buffer "
            rf"size of (?P<max_buffer_bytes>{NUM} bytes)"
        ),
        family=_FAMILY,
        marks=frozenset({"buffer_limit"}),
    ),
    Wording(
        pattern=unspaced(
            r"\[(?:metal::)?malloc\w{0,12}\] Resource limit \((?P<resource_limit>\d{1,12})\) "
            r"exceeded"
        ),
        family=_FAMILY,
        marks=frozenset({"resource_limit"}),
    ),
    Wording(
        pattern=unspaced(
            r"cudaMalloc(?:Async|Managed)?\(&data, size(?:, [\w, ]{1,40})?\) failed: "
            r"out of memory"
        ),
        family=_FAMILY,
    ),
    Wording(
        pattern=unspaced(
            rf"Generating with a model that requires (?P<weights_bytes>{NUM} MB) which is close to "
            rf"the maximum recommended size of (?P<working_set_bytes>{NUM} MB)"
        ),
        family=_FAMILY,
        marks=frozenset({"not_fatal"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    return read_wordings(flat, _TABLE)


READER: Final = Reader(
    name="mlx",
    needles=(
        "[METAL] Command buffer execution failed",
        "] Unable to allocate",
        "the maximum allowed buffer size",
        "] Resource limit (",
        "cudaMalloc(&data",
        "cudaMallocAsync(&data",
        "cudaMallocManaged(&data",
        "maximum recommended size of",
    ),
    read=_read,
)
