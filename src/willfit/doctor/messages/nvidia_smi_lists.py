"""gpustat's lines and lists of processes with their memory, as people paste them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from willfit.doctor.messages.reader import report
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report
from willfit.units import MIB

LIST_NEEDLES: Final = (
    "PID       GPU Memory",
    "PID GPU Memory",
    "GPU Memory |",
    "used_gpu_memory",
    "used_memory [MiB]",
    " MB | (null)",
)

_GPUSTAT: Final = re.compile(
    r"\[(?P<gpu>\d{1,3})\] [^|]{2,80}\| ?\d{1,3} ?['°]C, {1,2}\d{1,3} % ?\| ?"
    r"(?P<used>\d{1,7}) / (?P<total>\d{1,7}) MB ?\| ?\(null\)"
)
_HEADER: Final = re.compile(
    r"\b(?:PID|pid)\b[,| ]{1,4}(?:[\w ]{1,30}, )?"
    r"(?:GPU Memory|used_(?:gpu_)?memory)(?: \[MiB\])?(?: Usage)?"
)
_ROW: Final = re.compile(
    r"[\s|]{0,4}(?P<pid>\d{2,10})[,| ]{1,4}(?:[^,|\d][^,|]{0,120}, )?(?P<used>\d{1,7}) ?MiB"
)
_ANY: Final = re.compile(r"(?s:.+)")
_ROWS: Final = 512
"""Most rows that are read of one list."""


def read_gpustat(flat: Flat) -> Iterator[Report]:
    """Lines whose process has no name: it is dead, or in a container out of sight."""
    for match in _GPUSTAT.finditer(flat.text):
        yield report(
            flat,
            match,
            family="nvidia-smi",
            weight="aftermath",
            fields={"gpu": int(match["gpu"])},
            amounts={
                "used_bytes": f"{match['used']} MB",
                "total_bytes": f"{match['total']} MB",
            },
            marks=frozenset({"dead_process"}),
        )


def read_lists(flat: Flat) -> Iterator[Report]:
    """Lists of two and more processes under a header of two columns."""
    for header in _HEADER.finditer(flat.text):
        rows = list(_rows(flat.text, header.end()))
        end = rows[-1].end() if rows else header.end()
        whole = _ANY.match(flat.text, header.start(), end)
        if len(rows) > 1 and whole is not None:
            yield report(
                flat,
                whole,
                family="nvidia-smi",
                weight="aftermath",
                fields={"processes": [_process(row) for row in rows]},
                marks=frozenset({"process_list"}),
            )


def _rows(text: str, place: int) -> Iterator[re.Match[str]]:
    for _ in range(_ROWS):
        row = _ROW.match(text, place)
        if row is None:
            return
        place = row.end()
        yield row


def _process(row: re.Match[str]) -> dict[str, Any]:
    return {"pid": int(row["pid"]), "bytes": int(row["used"]) * MIB}
