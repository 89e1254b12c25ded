"""Loaded: a real model, with what was chosen for it and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from willfit.errors import InputError
from willfit.live.calls import written
from willfit.live.planned import cpu_bytes
from willfit.results import Estimate
from willfit.scenario import Machine, Scenario
from willfit.units import format_bytes

Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Loaded:
    """What `load` gives back; prints as its report."""

    model: Any
    """The model of transformers, or of PEFT where there is an adapter; None after a dry run."""
    tokenizer: Any
    """The tokenizer beside the weights; None where there is none."""
    scenario: Scenario
    """What was planned: settings and GPUs."""
    estimate: Estimate
    settings: Settings
    """Arguments by the call that they were given to, on this machine."""
    on_target: Settings = field(default_factory=dict)
    """The same on the GPUs planned for, where they are not here; empty where nothing differs."""
    changes: tuple[str, ...] = ()
    """Settings chosen that were not asked for."""
    notes: tuple[str, ...] = ()

    @contextmanager
    def kernels(self) -> Iterator[None]:
        """SDPA restricted to the kernel that was asked for, around ``forward`` or ``generate``.

        On the CPU, where torch has flash and math alone, another kernel is left to the GPU.
        """
        kernel = _kernel(self.scenario)
        on_gpu = self.model is not None and self.model.device.type == "cuda"
        if kernel is None or (kernel not in ("flash", "math") and not on_gpu):
            yield
            return
        from torch.nn.attention import SDPBackend, sdpa_kernel

        backends = {
            "flash": SDPBackend.FLASH_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "cudnn": SDPBackend.CUDNN_ATTENTION,
            "math": SDPBackend.MATH,
        }
        with sdpa_kernel(backends[kernel]):
            yield

    def to_bettertransformer(self) -> Loaded:
        """BetterTransformer's name: the model's attention becomes SDPA, which it turned into."""
        if self.model is None:
            raise InputError("a dry run has no model to change: call load without dry_run")
        self.model.set_attn_implementation("sdpa")
        return self

    def reverse_bettertransformer(self) -> Loaded:
        """Nothing to undo before saving: SDPA changes no module and no weight."""
        return self

    def __repr__(self) -> str:
        return "\n".join(_report(self))


def _kernel(scenario: Scenario) -> str | None:
    work = scenario.workload.inference or scenario.workload.training
    return work.sdpa_kernel if work is not None else None


def _report(loaded: Loaded) -> Iterator[str]:
    """Model, GPUs, verdict, changes, arguments and notes, a line each."""
    scenario, estimate = loaded.scenario, loaded.estimate
    what = "planned (dry run)" if loaded.model is None else f"loaded on {loaded.model.device}"
    yield f"{scenario.model.id}: {scenario.model.model_class}, {what}"
    if scenario.machine is not None:
        yield f"  GPUs: {describe(scenario.machine)}"
    yield f"  peak: {_peak(estimate)}"
    if estimate.refused is not None:
        yield f"  refused: {estimate.refused}"
    for change in loaded.changes:
        yield f"  chosen: {change}"
    yield from _calls(loaded.settings, "  ")
    if loaded.on_target:
        yield "  on the GPUs planned for:"
        yield from _calls(loaded.on_target, "    ")
    for note in loaded.notes:
        yield f"  note: {note}"


def _peak(estimate: Estimate) -> str:
    if estimate.scenario.machine is None:
        return f"{format_bytes(cpu_bytes(estimate))} of host memory by {estimate.level}"
    binding = estimate.binding
    text = f"{format_bytes(binding.peak.device_bytes)} {binding.peak.name} by {estimate.level}"
    verdict = (estimate.verdict or "").replace("_", " ")
    return f"{text}, of {format_bytes(binding.budget_bytes or 0)} on GPU {binding.index}: {verdict}"


def _calls(settings: Settings, indent: str) -> Iterator[str]:
    for call, arguments in settings.items():
        yield indent + written(call, arguments)


def describe(machine: Machine) -> str:
    """``2 × NVIDIA T4 (14.56 GiB)``, with what may be used where that is less."""
    names = {gpu.name: 0 for gpu in machine.gpus}
    for gpu in machine.gpus:
        names[gpu.name] += 1
    least = min(machine.budget_bytes(index) for index in range(len(machine.gpus)))
    cards = ", ".join(f"{n} × {name}" if n > 1 else name for name, n in names.items())
    return f"{cards} ({format_bytes(least)} usable{' each' if len(machine.gpus) > 1 else ''})"
