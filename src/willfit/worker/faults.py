"""Faults on purpose, for the tests of what a run survives: ``WILLFIT_FAULTS="kill@after-tmp:0.2"``.

Faults are separated by ``;``. Points: ``loading``, ``before-compute``, ``after-compute``,
``after-tmp`` (the shard is written under its temporary name) and ``after-rename``.

    kill@POINT:P        SIGKILL to the worker itself with probability P
    exit=CODE@POINT:P   leave with that code
    hang@POINT:P        sleep for a day
    cuda@POINT:P        the message of a dead CUDA context
    slow:SECONDS        every batch takes that much longer
    oom:TOKENS[:N]      batches above TOKENS run out of memory, with text N of `OOM_TEXTS`
    row-oom:ID          any batch with that row runs out of memory, however small it is
    poison:ID           any batch with that row kills the worker
    raise:ID            any batch with that row raises
    stuck:ID            any batch with that row hangs
    full@POINT:P        the disk is full
    tickets:FOLDER      a strike at a point takes a file of that folder, and without one there is
                        none: so many and no more, whichever worker comes first
    trace:FILE          a line for every batch that is begun: stage, rows, first and last id
    only:STAGE          the others' workers have no faults, and leave their trace all the same
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "WILLFIT_FAULTS"
OOM_TEXTS: Final = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.56 GiB of "
    "which 1.10 GiB is free.",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other "
    "API call, so the stacktrace below might be incorrect.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "Allocation on device",
)
"""As torch and CUDA say it; the first and the last are a `torch.OutOfMemoryError`."""
ROWS: Final = ("poison", "raise", "row-oom", "stuck")
"""Faults of rows."""
_AT: Final = re.compile(r"(kill|exit=\d+|hang|cuda|full)@([a-z-]+):([0-9.]+)")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """The faults of this process; none in a run that is not a test."""

    stage: str = ""
    points: tuple[tuple[str, str, float], ...] = ()
    slow: float = 0.0
    oom: tuple[int, int] | None = None
    poison: frozenset[str] = frozenset()
    raises: frozenset[str] = frozenset()
    row_oom: frozenset[str] = frozenset()
    stuck: frozenset[str] = frozenset()
    tickets: Path | None = None
    """Folder of strikes that are left; None: without end."""
    trace: Path | None = None
    dice: random.Random = field(default_factory=random.SystemRandom)

    @classmethod
    def from_environment(cls, stage: str) -> Faults:
        """As `VARIABLE` says; raises `ValueError` on a text that it does not know."""
        points: list[tuple[str, str, float]] = []
        settings: dict[str, Any] = {}
        rows: dict[str, set[str]] = {kind: set() for kind in ROWS}
        for text in filter(None, os.environ.get(VARIABLE, "").split(";")):
            match = _AT.fullmatch(text)
            name, _, value = text.partition(":")
            if match:
                points.append((match[1], match[2], float(match[3])))
            elif name in rows:
                rows[name].add(value)
            else:
                settings |= _setting(name, value)
        only = settings.pop("only", stage)
        if only != stage:
            return cls(stage=stage, trace=settings.get("trace"))
        return cls(
            stage=stage,
            points=tuple(points),
            poison=frozenset(rows["poison"]),
            raises=frozenset(rows["raise"]),
            row_oom=frozenset(rows["row-oom"]),
            stuck=frozenset(rows["stuck"]),
            **settings,
        )

    def at(self, point: str) -> None:
        """What happens at a named point."""
        for what, where, chance in self.points:
            if where == point and self.dice.random() < chance and self._may_strike():
                _strike(what)

    def batch(self, ids: Sequence[Any], padded: int) -> None:
        """What happens to a batch."""
        if self.trace is not None:
            line = f"{self.stage} {len(ids)} {ids[0]} {ids[-1]}\n"
            with self.trace.open("ab", buffering=0) as file:  # one write: lines stay whole
                file.write(line.encode())
        time.sleep(self.slow)
        bad = self.poison | self.raises | self.row_oom | self.stuck
        names = bad & set(map(str, ids)) if bad else bad
        if names & self.poison:
            _strike("kill")
        if names & self.stuck:
            _strike("hang")
        if names & self.raises:
            raise ValueError(f"row {sorted(names & self.raises)[0]} cannot be computed")
        if names & self.row_oom:
            raise _out_of_memory(1)
        if self.oom is not None and padded > self.oom[0]:
            raise _out_of_memory(self.oom[1])

    def _may_strike(self) -> bool:
        if self.tickets is None:
            return True
        for ticket in self.tickets.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another worker was quicker
                ticket.unlink()
                return True
        return False


def _setting(name: str, value: str) -> dict[str, Any]:
    if name == "oom":
        tokens, _, number = value.partition(":")
        return {"oom": (int(tokens), int(number or 0))}
    if name == "slow":
        return {"slow": float(value)}
    if name in ("tickets", "trace"):
        return {name: Path(value)}
    if name == "only":
        return {name: value}
    raise ValueError(f"unknown fault {name}:{value}")


def _strike(what: str) -> None:
    sys.stdout.flush()
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hang":
        time.sleep(86_400)
    if what == "cuda":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if what == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os._exit(int(what.partition("=")[2]))


def _out_of_memory(number: int) -> Exception:
    text = OOM_TEXTS[number]
    if number in (0, len(OOM_TEXTS) - 1):
        import torch

        return torch.OutOfMemoryError(text)
    return RuntimeError(text)
