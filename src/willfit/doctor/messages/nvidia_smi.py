"""nvidia-smi and gpustat: memory on a GPU that no living process of the list accounts for.

A table is no failure: a server fills its GPU on purpose, and in a container no process is listed.
A report is made where

- a listed process has no name any more (``[Not Found]``, ``(null)``): it died and its memory stays;
- nearly all of a GPU is used, nothing runs on it, and nobody is listed;
- other GPUs' processes are listed, and most of this one's memory is nobody's;
- several processes compute on one GPU that is nearly full;
- or a list of processes with their memory was written out by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from willfit.doctor.messages.nvidia_smi_lists import LIST_NEEDLES, read_gpustat, read_lists
from willfit.doctor.messages.reader import Reader, report
from willfit.doctor.passage import Flat
from willfit.doctor.report import Report
from willfit.units import MIB

_GPU: Final = re.compile(
    r"(?<![\w.])(?P<gpu>\d{1,3}) [^|\n]{2,80}\| ?[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d"
    r".{0,160}?(?P<used>\d{1,7}) ?MiB ?/ ?(?P<total>\d{1,7}) ?MiB ?\|? ?(?P<busy>\d{1,3})?"
)
"""Two lines of the upper table."""
_TABLE: Final = re.compile(r"Processes: .{0,200}?(?:Process name|Usage)")
_PROCESS: Final = re.compile(
    r"(?<![\w.])(?P<gpu>\d{1,3}) (?:(?:N/A|\d{1,3}) (?:N/A|\d{1,3}) )?(?P<pid>\d{2,10}) "
    r"(?P<kind>[CGM](?:\+[CG])?) (?P<name>[^|]{0,200}?) ?(?P<used>\d{1,7}) ?MiB"
)
_DEAD: Final = re.compile(r"\[Not Found\]|\(null\)|<defunct>")

_FULL: Final = 0.9
"""Share of a GPU from which on it is nearly full: what vLLM leaves by default is the rest."""
_CONTEXT: Final = 1024
"""MiB that may be used without being anybody's: two processes' contexts of 0.5 GiB."""


@dataclass(frozen=True, kw_only=True)
class _Gpu:
    match: re.Match[str]
    processes: list[re.Match[str]]
    others: bool
    """Whether processes of other GPUs are listed."""

    @property
    def used(self) -> int:
        return int(self.match["used"])

    @property
    def full(self) -> bool:
        return self.used >= _FULL * int(self.match["total"])


def _read(flat: Flat) -> Iterator[Report]:
    told = [*_tables(flat), *read_gpustat(flat), *read_lists(flat)]
    yield from sorted(told, key=lambda reading: reading.line)


def _tables(flat: Flat) -> Iterator[Report]:
    gpus = list(_GPU.finditer(flat.text))
    table = _TABLE.search(flat.text, gpus[-1].end()) if gpus else None
    if table is None:
        return
    listed = list(_PROCESS.finditer(flat.text, table.end()))
    for match in gpus:
        own = [row for row in listed if row["gpu"] == match["gpu"]]
        gpu = _Gpu(match=match, processes=own, others=len(own) < len(listed))
        mark = _wrong(gpu)
        if mark:
            yield _report(flat, gpu, mark)


def _wrong(gpu: _Gpu) -> str:
    """What is wrong with a GPU, as a mark; nothing where nothing is."""
    known = sum(int(row["used"]) for row in gpu.processes)
    computing = [row for row in gpu.processes if "C" in row["kind"]]
    if any(_DEAD.search(row["name"]) for row in gpu.processes):
        return "dead_process"
    if gpu.others and gpu.used - known > max(_CONTEXT, gpu.used // 2):
        return "nobodys_memory"
    if not gpu.processes and gpu.full and gpu.match["busy"] == "0":
        return "nobodys_memory"
    return "shared_gpu" if len(computing) > 1 and gpu.full else ""


def _report(flat: Flat, gpu: _Gpu, mark: str) -> Report:
    processes: list[dict[str, Any]] = [
        {"pid": int(row["pid"]), "bytes": int(row["used"]) * MIB} for row in gpu.processes
    ]
    return report(
        flat,
        gpu.match,
        family="nvidia-smi",
        weight="aftermath",
        fields={"gpu": int(gpu.match["gpu"]), "processes": processes or None},
        amounts={
            "used_bytes": f"{gpu.match['used']}MiB",
            "total_bytes": f"{gpu.match['total']}MiB",
        },
        marks=frozenset({mark}),
    )


READER: Final = Reader(
    name="nvidia-smi",
    needles=("| Processes:", "Process name", *LIST_NEEDLES),
    read=_read,
)
