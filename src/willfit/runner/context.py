"""What every stage of a run shares."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from willfit.runner.content import DigestCache
from willfit.runner.deadline import Deadline
from willfit.runner.folder import RunFolder
from willfit.runner.gpus import Devices, GpuProbe
from willfit.runner.observer import Observer
from willfit.runner.processes import Launcher
from willfit.runner.release import Contract
from willfit.runner.resume import Earlier


@dataclass(frozen=True, kw_only=True)
class Context:
    """The run around a stage."""

    folder: RunFolder
    launcher: Launcher
    probe: GpuProbe
    devices: Devices
    contract: Contract
    deadline: Deadline
    observer: Observer
    cache: DigestCache
    data: Path
    """The user's table, or the one that ``prepare`` made."""
    data_digest: str
    id_name: str
    seed: int = 0
    earlier: Earlier | None = None
    """Another run, whose results are taken over where they count."""
    shares_folder: bool = True
    """Whether workers can write into the run's folder; else results come up the pipe."""

    @property
    def parent(self) -> int:
        """Process id of the driver."""
        return os.getpid()
