"""What a run ran on: driver and library versions, the scenario on the GPUs that are here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from willfit.installed import installed_versions
from willfit.live.here import known_gpu
from willfit.live.measured.rank import num_ranks
from willfit.live.measurement import MeasuredGpu
from willfit.scenario import Gpu, Machine, Scenario, Stack
from willfit.scenario.stack import TESTED, release

LIBRARIES: Final = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "trl")


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide, those that are there."""
    return installed_versions(LIBRARIES)


def device_name(device: str) -> str:
    """Of the first GPU as torch has it; ``cpu`` without one."""
    if device != "cuda":
        return "cpu"
    import torch

    return str(torch.cuda.get_device_name(0))


def driver_version() -> str:
    """Of the NVIDIA driver; "" where NVML does not answer."""
    try:
        import pynvml  # type: ignore[import-untyped]  # it has no stubs

        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # no NVML: the driver stays unknown
        return ""
    return version.decode() if isinstance(version, bytes) else str(version)


def on_these(
    scenario: Scenario, gpus: Sequence[MeasuredGpu], versions: Mapping[str, str]
) -> Scenario:
    """The scenario on the GPUs and libraries that were measured, for the estimate beside it.

    Without a GPU there is no machine: the numbers are of a card that is not named. Where one rank
    was measured, all of them have its card.
    """
    known = {name: text for name, text in versions.items() if name in TESTED and release(text)}
    stack = Stack(
        versions={**scenario.stack.versions, **known}, alloc_conf=scenario.stack.alloc_conf
    )
    ranks = num_ranks(scenario)
    machine = Machine(gpus=tuple(map(_card, gpus)) * ranks) if gpus else None
    if ranks > 1 and machine is None:
        machine = scenario.machine
    return replace(scenario, machine=machine, stack=stack)


def _card(gpu: MeasuredGpu) -> Gpu:
    return known_gpu(gpu.name, gpu.capacity_bytes, gpu.compute_capability)
