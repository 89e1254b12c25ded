"""Terms: what a place lacks for a job, and what it asks of it beyond memory and time."""

from __future__ import annotations

from collections.abc import Iterator

from willfit.devices.places import Place
from willfit.devices.wheels import no_kernels
from willfit.dtypes import FLOAT32
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.units import format_bytes


def cannot_run(scenario: Scenario, place: Place) -> str | None:
    """What no change of the job would help; None where nothing speaks against it."""
    if place.why_not is not None:
        return place.why_not
    return next(filter(None, (no_kernels(gpu, scenario.stack) for gpu in place.gpus)), None)


def too_large(made: Estimate) -> str:
    """What does not fit, in words; empty where all does.

    ``device_map="auto"`` fits anything by leaving weights on the host: no fit unless asked for.
    """
    if made.refused is not None:
        return made.refused
    binding = made.binding
    if binding.headroom_bytes is not None and binding.headroom_bytes < 0:
        phase = "while loading" if binding.peak.name == "load" else f"in {binding.peak.name}"
        return f"{format_bytes(-binding.headroom_bytes)} too much {phase}"
    if made.verdict == "does_not_fit":
        return f"needs {' and '.join(_host_short(made)) or 'more of the host'}"
    if made.off_gpu_bytes and not made.scenario.workload.loading.max_memory:
        return f"{format_bytes(made.off_gpu_bytes)} of weights would stay off the GPU"
    return ""


def _host_short(made: Estimate) -> Iterator[str]:
    machine, host = made.scenario.machine, made.host
    if machine is None:
        return
    for what, needed, there in (
        ("host RAM", host.ram_bytes, machine.ram_bytes),
        ("disk", host.disk_bytes, machine.disk_bytes),
    ):
        if there is not None and needed > there:
            yield f"{format_bytes(needed)} of {what} where there is {format_bytes(there)}"


def terms(made: Estimate, place: Place) -> Iterator[str]:
    """What to prepare, and what to know of the place."""
    if made.verdict == "tight":
        yield "tight: the high end of the range is over what there is"
    if not place.internet:
        yield "no internet: attach the model, its tokenizer and the packages beforehand"
    if place.kind == "notebook" and "notebook" in made.notes:
        yield made.notes["notebook"]
    saved, written = place.saved_bytes, trained_bytes(made)
    if saved is not None and written > saved:
        yield f"a checkpoint of {format_bytes(written)} is more than the {format_bytes(saved)} kept"
    yield from place.notes


def trained_bytes(made: Estimate) -> int:
    """What training leaves to be kept, without optimizer states; 0 of an inference.

    The whole model as it was loaded, or the adapter in the type it trains in: PEFT's default is
    float32 (``autocast_adapter_dtype``, peft 0.21 tuners_utils.py).
    """
    workload = made.scenario.workload
    if workload.training is None:
        return 0
    if workload.training.method == "full":
        dtype = workload.loading.dtype or made.scenario.model.stored_dtype
        return dtype.num_bytes(made.num_params)
    lora = workload.training.lora_config
    dtype = FLOAT32 if lora is None or lora.dtype is None else lora.dtype
    return dtype.num_bytes(made.num_trainable_params)
