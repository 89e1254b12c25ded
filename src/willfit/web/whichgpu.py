"""Which GPUs hold a job: the estimate on every one that the visitor's filter leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from willfit.cli.build import Request
from willfit.cli.estimate import estimated
from willfit.devices import all_gpus
from willfit.errors import InputError, WillfitError
from willfit.scenario import Machine
from willfit.scenario.machine import Gpu
from willfit.units import parse_bytes
from willfit.web.form import Form
from willfit.web.show.gpus import OnGpu

MOST_OF_A_KIND: Final = 16
"""GPUs of one kind in a machine; beyond that it is a cluster, for the command line."""


def tried(request: Request, form: Form) -> list[OnGpu]:
    """The job on each GPU that the filter leaves."""
    count = int(form.values.get("gpu_count", "1"))
    if count > MOST_OF_A_KIND:
        raise InputError(f"{count} GPUs of a kind are more than {MOST_OF_A_KIND}: give fewer")
    return [_on(request, gpu, count) for gpu in chosen(form)]


def chosen(form: Form) -> Iterator[Gpu]:
    """GPUs of the catalogue by parts of their name and by memory; NVIDIA's where none is named."""
    words = form.values.get("gpu_names", "").lower().split()
    least = _amount(form, "gpu_at_least", 0)
    most = _amount(form, "gpu_at_most", 2**60)
    for gpu in all_gpus():
        name = gpu.name.lower()
        named = any(word in name for word in words) if words else gpu.vendor == "nvidia"
        if named and least <= gpu.capacity_bytes <= most:
            yield gpu


def _amount(form: Form, name: str, default: int) -> int:
    given = form.values.get(name)
    return parse_bytes(given) if given else default


def _on(request: Request, gpu: Gpu, count: int) -> OnGpu:
    name = gpu.name + (f"x{count}" if count > 1 else "")
    before = request.scenario.machine
    machine = replace(
        before if before is not None else Machine(gpus=(gpu,)),
        gpus=(gpu,) * count,
        in_use_bytes=((before.in_use_bytes[:1] if before is not None else ()) or (0,)) * count,
    )
    asked = replace(request, scenario=replace(request.scenario, machine=machine))
    try:
        return OnGpu(name=name, estimate=estimated(asked, search_limits=False))
    except WillfitError as error:
        return OnGpu(name=name, estimate=None, reason=str(error))
