"""What `load` decides before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from willfit.errors import InputError
from willfit.estimator.spread import strategy_of
from willfit.live.asked import Asked
from willfit.live.calls import Calls, calls_of, on_cpu, on_other_gpus
from willfit.live.choose import Choice, choose, with_loading
from willfit.live.classes import support_of
from willfit.live.facts import FLASH, HALF, Facts
from willfit.live.here import Here
from willfit.live.remarks import remarks
from willfit.live.rules import refusal
from willfit.live.wanted import Wanted, wanted
from willfit.results import Estimate
from willfit.scenario import Scenario
from willfit.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class Planned:
    """All that is decided before anything is loaded."""

    facts: Facts
    wanted: Wanted
    choice: Choice
    as_given: bool
    notes: tuple[str, ...]

    @property
    def scenario(self) -> Scenario:
        """What will be loaded."""
        return self.choice.scenario

    def calls(self) -> Calls:
        """The calls on the GPUs planned for."""
        return calls_of(self.scenario, self.wanted.adapter, self.facts.asked.revision)

    def calls_here(self) -> Calls:
        """The calls on this machine, which may have other GPUs or none."""
        here = self.facts.here
        if not here.gpus:
            return on_cpu(self.calls())
        return self.calls() if self.wanted.target_is_here else on_other_gpus(self.calls(), here)


def plan_load(asked: Asked, here: Here, *, as_given: bool = False) -> Planned:
    """The settings that will be loaded; raises `InputError` on a combination that cannot run."""
    want = wanted(asked, here)
    facts = Facts(
        asked=asked, scenario=want.scenario, support=support_of(want.scenario.model), here=here
    )
    facts, notes = _in_half(facts, want)
    why = refusal(facts)
    if why is not None:
        raise InputError(why)
    facts, more = _without_flash_attn(facts, want)
    choice = choose(
        facts.scenario,
        want.fixed | ({"dtype", "quantize", "max_memory"} if as_given else set()),
        facts.half,
        lambda scenario: refusal(replace(facts, scenario=scenario)) is None,
        lambda scenario, estimate: _acceptable(scenario, estimate, here, want),
    )
    facts = replace(facts, scenario=choice.scenario)
    return Planned(
        facts=facts,
        wanted=want,
        choice=choice,
        as_given=as_given,
        notes=(*want.notes, *notes, *more, *remarks(facts), *_why(choice), *choice.reasons),
    )


def _in_half(facts: Facts, want: Wanted) -> tuple[Facts, tuple[str, ...]]:
    """16 bit for what has kernels of 16 bit alone, where the type was left open."""
    needs_half = facts.attention in FLASH or facts.work.sdpa_kernel in ("flash", "cudnn")
    if not needs_half or facts.dtype in HALF or "dtype" in want.fixed or not facts.gpus:
        return facts, ()
    loading = replace(facts.scenario.workload.loading, dtype=facts.half)
    what = facts.attention if facts.attention in FLASH else "that kernel"
    note = f"dtype {facts.half.name}: {what} computes in 16 bit, and the checkpoint has 32"
    return replace(facts, scenario=with_loading(facts.scenario, loading)), (note,)


def _without_flash_attn(facts: Facts, want: Wanted) -> tuple[Facts, tuple[str, ...]]:
    """SDPA where flash-attn was asked for on this machine's GPUs and cannot be had."""
    if facts.attention not in FLASH or not want.target_is_here or not facts.gpus:
        return facts, ()
    if facts.here.flash_attn:
        return facts, ()
    if facts.here.hub_kernels:
        return facts, (
            "flash-attn is not installed: transformers fetches kernels-community/flash-attn2 from "
            "the Hub with the package kernels, so the first load needs internet",
        )
    changed = replace(facts, scenario=with_attention(facts.scenario, "sdpa"))
    return changed, (
        "flash-attn is not installed, nor kernels, with which transformers would fetch it: "
        "attention runs by SDPA, whose flash kernel is the same algorithm inside torch",
    )


def with_attention(scenario: Scenario, attn: str | None) -> Scenario:
    """The scenario with another ``attn_implementation``."""
    workload = scenario.workload
    if workload.training is not None:
        workload = replace(workload, training=replace(workload.training, attn=attn))
    elif workload.inference is not None:
        workload = replace(workload, inference=replace(workload.inference, attn=attn))
    return replace(scenario, workload=workload)


def _acceptable(scenario: Scenario, estimate: Estimate, here: Here, want: Wanted) -> bool:
    """It fits on the GPUs, with weights on the host only where ``max_memory`` says so."""
    if scenario.machine is None:
        limit = cpu_limit(here, want)
        return limit is None or cpu_bytes(estimate) <= limit
    host_is_meant = "cpu" in (scenario.workload.loading.max_memory or {})
    return bool(estimate.fits) and (estimate.off_gpu_bytes == 0 or host_is_meant)


def cpu_bytes(estimate: Estimate) -> int:
    """What the tensors of an estimate take where there is no GPU to hold them.

    Parts of a split model add up; of copies there would be one.
    """
    apart = ("workspaces", "cuda_context", "fragmentation", "other_processes")
    peaks = [
        max(
            sum(part.num_bytes for part in phase.components if part.name not in apart)
            for phase in gpu.phases
        )
        for gpu in estimate.gpus
    ]
    split = strategy_of(estimate.scenario) == "device_map"
    return (sum(peaks) if split else max(peaks)) + estimate.off_gpu_bytes


def cpu_limit(here: Here, want: Wanted) -> int | None:
    """Host memory that may be used: what is free, and no more than a budget for the CPU."""
    limits = [here.ram_bytes, want.budget_bytes if want.scenario.machine is None else None]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def _why(choice: Choice) -> tuple[str, ...]:
    """Why something was changed, or how close it is."""
    if choice.asked is None:
        tight = choice.estimate.verdict == "tight"
        return ("it is tight: what is not known may make it too much",) if tight else ()
    before = choice.asked
    if before.refused is not None:
        return (f"as asked it would be refused: {before.refused}",)
    short = before.binding.headroom_bytes
    over = f", {format_bytes(-short)} too much" if short is not None and short < 0 else ""
    return (f"as asked it would take {format_bytes(before.binding.peak.device_bytes)}{over}",)
