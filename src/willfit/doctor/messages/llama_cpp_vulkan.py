"""llama.cpp on Vulkan: ggml-vulkan.cpp, whose limit is often that of one allocation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from willfit.doctor.amounts import NUMBER
from willfit.doctor.messages.ggml import FACTS, purposes, writer
from willfit.doctor.messages.reader import Reader
from willfit.doctor.messages.wordings import line_wording, placed_wordings
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report

_FAMILY: Final = "llama.cpp-vulkan"


_row = partial(line_wording, _FAMILY)


_TABLE: Final = (
    _row(
        rf"ggml_vulkan: (?:Device memory|Memory) allocation of size (?P<tried_bytes>{NUMBER}) "
        r"failed(?:(?:(?!allocation of ).){0,300}?failed to allocate Vulkan\w{1,12} "
        r"buffer of size \d{1,20})?",
        unit="bytes",
    ),
    _row(
        r"failed to allocate (?P<buffer>Vulkan\w{1,12}) buffer of size "
        r"(?P<tried_bytes_exact>\d{1,20})"
    ),
    _row(
        rf"ggml_vulkan: WARNING: failed to allocate (?P<tried_bytes>{NUMBER} Mi?B) of pinned "
        r"memory",
        "not_fatal",
        "pinned_memory",
    ),
    _row(r"ggml_vulkan: Failed to allocate pinned memory", "not_fatal", "pinned_memory"),
    _row(
        r"vk::\w{1,20}::\w{1,30}: ErrorOutOf(?:Device|Host)Memory"
        r"|vk::OutOf(?:Device|Host)MemoryError",
        weight="aftermath",
    ),
)
_LIMIT: Final = re.compile(r"exceeds device (?:memory allocation|buffer size) limit")
_AHEAD: Final = 300


def _read(flat: Flat) -> Iterator[Report]:
    family = "ollama" if writer(flat) == "ollama" else _FAMILY
    for told, match in placed_wordings(flat, _TABLE, FACTS):
        limited = _LIMIT.search(flat.text, match.start(), match.end() + _AHEAD)
        marks = told.marks | purposes(flat, match.start(), match.end())
        yield replace(
            told,
            family=family,
            marks=marks | {"buffer_limit"} if limited else marks,
        )


READER: Final = Reader(
    name="llama.cpp-vulkan",
    needles=(
        "emory allocation of size",
        "failed to allocate Vulkan",
        "ailed to allocate pinned memory",
        "ErrorOutOfDeviceMemory",
        "ErrorOutOfHostMemory",
        "OutOfDeviceMemoryError",
    ),
    read=_read,
)
