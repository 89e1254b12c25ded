"""TensorFlow: its kernels' ResourceExhaustedError and its BFC allocator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from willfit.doctor.messages.jax import JAX
from willfit.doctor.messages.numbers import NUM, UNITS
from willfit.doctor.messages.quotation import is_said
from willfit.doctor.messages.reader import Reader, report
from willfit.doctor.messages.squeezed import unspaced
from willfit.doctor.messages.wordings import Wording, read_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "tensorflow"

_TENSOR: Final = re.compile(
    r"OOM when allocating tensor (?:with shape|of shape) ?\[(?P<shape>[\d, ]{0,200})\]"
    r"(?: and type (?P<dtype>\w{1,20})(?: on (?P<device>/\S{1,160}))?)?"
)
_GPU: Final = re.compile(r"device:GPU:(\d{1,3})")

_TABLE: Final = (
    Wording(  # a kernel that has another way asks first: no failure
        pattern=unspaced(
            rf"Allocator \(\w{{1,40}}\) ran out of memory trying to allocate "
            rf"(?P<tried_bytes>{NUM} {UNITS})"
            r"(?:\(rounded to \d{1,20}\))?(?:with freed_by_count=\d{1,20})?\. The caller "
            r"indicates that this is not a failure"
        ),
        family=_FAMILY,
        marks=frozenset({"not_fatal"}),
    ),
    Wording(
        pattern=unspaced(
            rf"Allocator (?:\(\w{{1,40}}\) )?ran out of memory trying to allocate "
            rf"(?P<tried_bytes>{NUM} (?:{UNITS}|(?=Bytes)))"
        ),
        family=_FAMILY,
        weight="aftermath",
        unit="bytes",
    ),
    Wording(
        pattern=unspaced(
            r"(?:ResourceExhaustedError|RESOURCE_EXHAUSTED): (?:[^\n]{0,120}?)?"
            r"[Ff]ailed to allocate memory(?! for)"
        ),
        family=_FAMILY,
    ),
    Wording(
        pattern=unspaced(r"Dst tensor is not initialized"),
        family=_FAMILY,
        marks=frozenset({"disguised"}),
    ),
)


def _read(flat: Flat) -> Iterator[Report]:
    foreign = JAX.search(flat.text) is not None
    told = read_wordings(flat, _TABLE)
    every = chain(_tensors(flat), (replace(t, family="jax") if foreign else t for t in told))
    yield from sorted(every, key=lambda reading: reading.line)


def _tensors(flat: Flat) -> Iterator[Report]:
    for match in _TENSOR.finditer(flat.text):
        if is_said(flat, match.start(), match.end()):
            yield report(flat, match, family=_FAMILY, fields=_fields(match))


def _fields(match: re.Match[str]) -> dict[str, Any]:
    gpu = _GPU.search(match["device"] or "")
    return {
        "shape": [int(size) for size in match["shape"].replace(" ", "").split(",") if size],
        "dtype": match["dtype"],
        "gpu": int(gpu[1]) if gpu else None,
    }


READER: Final = Reader(
    name="tensorflow",
    needles=(
        "OOM when allocating tensor",
        "ran out of memory trying to allocate",
        "ailed to allocate memory",
        "Dst tensor is not initialized",
    ),
    read=_read,
)
