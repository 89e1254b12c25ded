"""Where a run's workers are: on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from willfit.runner.gpus import Devices, GpuProbe, NvmlProbe, visible
from willfit.runner.pipeline import PipelineFile
from willfit.runner.processes import Launcher


@dataclass(frozen=True, kw_only=True)
class Backend:
    """What starts workers there, and what is known of the GPUs."""

    launcher: Launcher
    probe: GpuProbe
    devices: Devices
    shares_folder: bool = True
    """Whether workers can write into the run's folder."""
    remarks: tuple[str, ...] = ()
    """What a person should know of the place."""


@contextlib.contextmanager
def backend(
    name: str, file: PipelineFile, *, local: Launcher, probe: GpuProbe | None
) -> Iterator[Backend]:
    """The backend of that name for as long as a run lasts.

    ``local`` starts workers beside the driver, which prepare the rows in any case; ``probe`` reads
    the GPUs of a machine, NVML without it. Raises `InputError` where there is no cluster.
    """
    reading = probe or NvmlProbe()
    if name != "ray":
        yield Backend(launcher=local, probe=reading, devices=visible(reading))
        return
    from willfit.runner.ray_backend.cluster import connected

    uses_gpus = any(stage.gpus != "none" for stage in file.stages.values())
    with connected(local=local, uses_gpus=uses_gpus, probe=reading) as found:
        yield found
