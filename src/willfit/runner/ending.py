"""Why a worker ended, in words: its exit code, the host's memory, the end of its log."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

from willfit.runner.processes import Ended
from willfit.runner.protocol import ROW_OOM

_EVENTS: Final = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)
"""The kernel's count of processes that it killed for memory, in both versions of cgroups."""


def host_kills() -> int | None:
    """Processes of this container that the kernel has killed for host memory so far."""
    for path in _EVENTS:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.strip().isdecimal():
                return int(count)
    return None


def why_ended(ended: Ended, kills_before: int | None) -> str:
    """A phrase: ``killed (signal 9), and the kernel says: host memory ran out``."""
    code = ended.code
    if code == ROW_OOM:
        return "the GPU's memory is too small for one row"
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        after = host_kills()
        if after is not None and kills_before is not None and after > kills_before:
            return (
                "the kernel killed it because the host's memory (RAM) ran out: fewer replicas "
                "load less at a time"
            )
        return f"something killed it (signal 9, exit code {code}); often the host's RAM ran out"
    if code < 0:
        return f"signal {-code} ({_name(-code)}) ended it"
    last = [line for line in ended.log.splitlines() if line.strip()]
    return f"it left with code {code}{f' after: {last[-1].strip()[:300]}' if last else ''}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
