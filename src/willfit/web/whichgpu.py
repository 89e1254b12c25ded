"""Which GPUs hold a job: the estimate on every one that the visitor's filter leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from willfit.cli.build import Request
from willfit.cli.estimate import estimated
from willfit.devices import all_gpus
from willfit.errors import InputError, WillfitError
from willfit.scenario import Machine
from willfit.scenario.machine import Gpu
from willfit.units import MIB, parse_bytes
from willfit.web.fields import BY_NAME
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
    """GPUs of the catalogue by name and by memory; NVIDIA's where none is named."""
    least = _amount(form, "gpu_at_least", 0)
    most = _amount(form, "gpu_at_most", 2**60)
    for gpu in named(form.values.get("gpu_names", "")):
        if least <= gpu.capacity_bytes <= most:
            yield gpu


def named(names: str) -> list[Gpu]:
    """GPUs of such names, in the catalogue's order: ``RTX 4090, A100`` are two, ``T4 L4`` also.

    Words without a comma between them are one name where a GPU has them all.
    """
    gpus = all_gpus()
    if not names.replace(",", " ").split():
        return [gpu for gpu in gpus if gpu.vendor == "nvidia"]
    found = {gpu.name for part in names.lower().split(",") for gpu in _named(part.split(), gpus)}
    return [gpu for gpu in gpus if gpu.name in found]


def _named(words: Sequence[str], gpus: Sequence[Gpu]) -> list[Gpu]:
    if not words:
        return []
    every = [gpu for gpu in gpus if all(word in gpu.name.lower() for word in words)]
    return every or [gpu for gpu in gpus if any(word in gpu.name.lower() for word in words)]


def _amount(form: Form, name: str, default: int) -> int:
    """Bytes of a bound; a number without a unit would be bytes, which nobody means here."""
    given = form.values.get(name)
    if given is None:
        return default
    amount = parse_bytes(given)
    if amount < MIB:
        raise InputError(f"{BY_NAME[name].label!r} is {given[:40]!r}: give a unit, such as 24GB")
    return amount


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
