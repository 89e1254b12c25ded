"""Others: memory of the device that is not this process's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause, Rule, certain, likely
from willfit.doctor.causes.numbers import CONTEXT, NO_SIZE, Numbers, worked_out
from willfit.doctor.causes.words import TORCH, has, is_of, near
from willfit.doctor.report import Report
from willfit.units import GIB, MIB

ALIKE: Final = 0.02
"""Two processes that hold the same within this are the same program."""
BARE: Final = (150 * MIB, GIB)
"""What a process holds that only made a CUDA context."""


FULL: Final = 0.9
"""Part of a GPU in use from which on a program that comes later finds no room."""
_ROW: Final = re.compile(r"\d{1,7} ?MiB ?/ ?\d{1,7} ?MiB")
"""Memory of a GPU in nvidia-smi's table."""
SLACK: Final = 32 * MIB
"""Amounts in GiB are printed to 10 MiB: three of them may be off by so much. A process that holds
less than it reserved is one that the driver could not ask for (``0 bytes``)."""


@dataclass(frozen=True)
class Held:
    """What processes hold of one device."""

    own: int | None
    """By the process that failed, as the driver counts it."""
    others: tuple[tuple[int, int], ...]
    """The rest: process id and bytes."""

    @property
    def total(self) -> int:
        """Of the others together."""
        return sum(held for _, held in self.others)


def _find(report: Report) -> Cause | None:
    if is_of(report, "nvidia-smi"):
        return _listed(report)
    if is_of(report, "cuda-error", "cublas"):
        return _tabled(report)
    if not is_of(report, *TORCH):
        return None
    numbers = Numbers(report)
    listed = processes_of(report)
    held = held_by(numbers, listed)
    return _named(numbers, held) if held is not None and held.others else None


def processes_of(report: Report) -> tuple[tuple[int, int], ...]:
    """Process ids and bytes of the message's own list."""
    rows: Sequence[Any] = report.fields.get("processes") or ()
    pairs = ((row.get("pid"), row.get("bytes")) for row in rows if isinstance(row, dict))
    return tuple(
        (pid, held)
        for pid, held in pairs
        if isinstance(pid, int) and isinstance(held, int) and held < NO_SIZE
    )


def held_by(numbers: Numbers, listed: tuple[tuple[int, int], ...]) -> Held | None:
    """Which of the listed processes is this one.

    The driver prints ids of the host, so that in a container one's own process is one of those
    listed: it is that which holds what this process reserved plus at most a context.
    """
    own, reserved = numbers.of("this_process_bytes"), numbers.reserved
    if own is not None and own >= (reserved or 0) - SLACK:
        return Held(own, listed)
    if reserved is None or not listed:
        return None
    near = [(held - reserved, pid) for pid, held in listed if -SLACK <= held - reserved <= CONTEXT]
    if not near:
        return Held(None, listed) if len(listed) > 1 else None
    extra, pid = min(near)
    return Held(reserved + extra, tuple(row for row in listed if row[0] != pid))


def _named(numbers: Numbers, held: Held) -> Cause | None:
    total, tried, free = numbers.total, numbers.tried or 0, numbers.free or 0
    if total is None or held.total < min(tried, total // 20):
        return None
    each = ", ".join(f"{pid}: {amount(size)}" for pid, size in held.others[:6])
    text = f"Other processes hold {amount(held.total)} of {amount(total)} ({each})."
    own = f"This one holds {amount(held.own)}." if held.own else ""
    if _are_bare(held):
        return likely(
            "multi_gpu_imbalance",
            text,
            f"{len(held.others)} equal ones of the size of a "
            "CUDA context: every rank has made one on this GPU.",
        ).with_also(own)
    gain = worked_out(free, ("+", held.total, "of others"), ("−", tried, "asked for"))
    enough = held.total + free >= tried
    answer = f"Without them it fits: {gain} left." if enough else f"Even without them: {gain}."
    return (certain if enough else likely)(
        "other_process",
        text,
        own,
        answer,
        "The ids are those of the host; inside a container they differ.",
    )


def _are_bare(held: Held) -> bool:
    sizes = [size for _, size in held.others]
    low, high = BARE
    alike = max(sizes) - min(sizes) <= ALIKE * max(sizes)
    return len(sizes) > 1 and alike and all(low <= size <= high for size in sizes)


def _tabled(report: Report) -> Cause | None:
    """A table beside a driver's bare refusal: its first GPU, which is what a program gets."""
    if has(report, "vllm", "sglang", "tgi"):
        return None  # its own other processes fill a card on purpose
    row = near(report, _ROW)
    used, _, total = row.replace("MiB", "").partition("/")
    if not row or int(used) < FULL * int(total):
        return None
    return likely(
        "other_process",
        f"The table beside it shows {used.strip()} of {total.strip()} MiB of the first GPU in use, "
        "and the program that failed holds none of that any more.",
    )


def _listed(report: Report) -> Cause | None:
    """A table of nvidia-smi or gpustat by itself."""
    sizes = sorted(processes_of(report), key=lambda row: row[1])
    for (pid, size), (other, more) in pairwise(sizes):
        if size >= GIB and more - size <= ALIKE * more:
            return likely(
                "leak_previous",
                f"Processes {pid} and {other} hold {amount(size)} and "
                f"{amount(more)}: the same program twice, an earlier run has not "
                "ended.",
            )
    numbers = Numbers(report)
    used, total = numbers.of("used_bytes"), numbers.total
    if used and total:
        left = worked_out(total, ("−", used, "used"))
        return likely(
            "other_process",
            f"{left} is free: what is used belongs to a process that is "
            "not yours, or to one that died without a name.",
        )
    if sizes:
        return likely(
            "other_process",
            f"{len(sizes)} processes hold {amount(sum(size for _, size in sizes))} together.",
        )
    return None


RULE: Final = Rule(
    name="other process",
    mechanism="What the driver lists beside the process that holds what this one reserved is "
    "somebody else's.",
    find=_find,
)
