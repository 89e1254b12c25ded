"""`load`: plan, apply, and give back the real model with what was chosen for it and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from willfit.errors import InputError
from willfit.live.asked import Asked, Wanted, describe, wanted
from willfit.live.calls import Calls, calls_of, on_cpu
from willfit.live.choose import Choice, choose, with_loading
from willfit.live.classes import Support, support_of
from willfit.live.here import Here, look
from willfit.live.loaded import Loaded
from willfit.live.realise import load_model, load_tokenizer, put_adapter, source_of
from willfit.live.remarks import remarks
from willfit.live.rules import FLASH, HALF, Facts, refusal
from willfit.results import Estimate
from willfit.scenario import ModelSpec, Scenario
from willfit.units import format_bytes


def load(
    model: str | Path | ModelSpec,
    *,
    gpu: str | None = None,
    budget: str | int | None = None,
    task: str | None = None,
    adapter: Any = None,
    dtype: Any = None,
    quantize: str | None = None,
    attn: str | None = None,
    sdpa_kernel: str | None = None,
    better_transformer: bool = False,
    max_memory: Mapping[int | str, int | str] | None = None,
    num_labels: int | None = None,
    batch_size: int = 1,
    context: int | None = None,
    max_new_tokens: int | None = None,
    padded: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    as_given: bool = False,
    dry_run: bool = False,
) -> Loaded:
    """The real model, loaded so that it fits, with a report of what was chosen.

    What is given stays; what is not is the library's default, unless that does not fit: then
    16 bit, int8, nf4 and, last, part of the weights in host memory are tried in this order.

    ``model`` is a local folder, a Hub id or a name of the catalogue. ``gpu`` names the GPUs to
    plan for (``"T4x2"``); without it they are those of this machine, or its CPU. On a machine
    without CUDA the model is loaded on the CPU with the same settings. ``budget`` is what may be
    used of each GPU (of the host's memory on the CPU). ``task`` is ``inference``, ``train``,
    ``load`` or a pipeline's name such as ``text-classification``. ``adapter`` is ``"lora"``, a
    `LoraConfig` or its fields, or the folder of a trained adapter. ``quantize`` is ``int8``,
    ``nf4``, ``fp4``, ``nf4-double`` or ``fp4-double``; ``sdpa_kernel`` is ``flash``,
    ``efficient``, ``cudnn`` or ``math`` and holds inside `Loaded.kernels`. ``padded`` says that
    batches have padding. ``as_given`` changes nothing even where it does not fit; ``dry_run``
    gives the report without loading.

    Raises `InputError` where the combination cannot run or does not fit, with the reason.
    """
    asked = Asked(
        model=model, gpu=gpu, budget=budget, task=task, adapter=adapter, dtype=dtype,
        quantize=quantize, attn=attn, sdpa_kernel=sdpa_kernel,
        better_transformer=better_transformer, max_memory=max_memory, num_labels=num_labels,
        batch_size=batch_size, context=context, max_new_tokens=max_new_tokens, padded=padded,
        revision=revision, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    here = look()
    planned = plan_load(asked, here, as_given=as_given)
    if dry_run:
        return _dry(planned)
    _require_fit(planned)
    return _apply(planned)


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


def plan_load(asked: Asked, here: Here, *, as_given: bool = False) -> Planned:
    """The settings that will be loaded; raises `InputError` on a combination that cannot run."""
    want = wanted(asked, here)
    facts = Facts(asked=asked, scenario=want.scenario, support=_support(want.scenario), here=here)
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
        notes=(*want.notes, *notes, *more, *remarks(facts), *_why(choice)),
    )


def _support(scenario: Scenario) -> Support:
    return support_of(scenario.model)


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
    """What the tensors of an estimate take where there is no GPU to hold them."""
    apart = ("workspaces", "cuda_context", "fragmentation", "other_processes")
    return max(
        sum(part.num_bytes for part in phase.components if part.name not in apart)
        for gpu in estimate.gpus
        for phase in gpu.phases
    )


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


def _require_fit(planned: Planned) -> None:
    if planned.choice.fits or planned.as_given:
        return
    scenario, estimate = planned.scenario, planned.choice.estimate
    if estimate.refused is not None:
        raise InputError(f"{scenario.model.id} is refused: {estimate.refused}")
    where = describe(scenario.machine) if scenario.machine is not None else "this CPU's memory"
    raise InputError(
        f"{scenario.model.id} takes {format_bytes(estimate.binding.peak.device_bytes)} and does "
        f"not fit on {where}, with none of the changes left to try: shorten context, or name "
        "more GPUs; dry_run=True shows the parts, as_given=True tries it all the same"
    )


def _dry(planned: Planned) -> Loaded:
    """The report alone, with the calls on the GPUs planned for."""
    return _report(planned, None, None, planned.calls())


def _apply(planned: Planned) -> Loaded:
    """The model of what was planned, on this machine."""
    require_ram(planned)
    source = source_of(planned.scenario.model)
    adapter = planned.wanted.adapter
    calls = planned.calls() if planned.facts.here.gpus else on_cpu(planned.calls())
    model = load_model(source, calls.load)
    if adapter is not None:
        trains = planned.scenario.workload.training is not None
        model = put_adapter(model, adapter, calls, trains=trains)
    tokenizer, without = load_tokenizer(source, calls.load)
    return _report(planned, model, tokenizer, calls, (without,) if without else ())


def _report(
    planned: Planned, model: Any, tokenizer: Any, calls: Calls, extra: tuple[str, ...] = ()
) -> Loaded:
    """What was planned around the model, with the calls here and those on the GPUs planned for."""
    settings = calls.settings()
    on_target = planned.calls().settings()
    elsewhere = planned.scenario.machine is not None and on_target != settings
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        scenario=planned.scenario,
        estimate=planned.choice.estimate,
        settings=settings,
        on_target=on_target if elsewhere else {},
        changes=planned.choice.changes,
        notes=(*planned.notes, *extra),
    )


def require_ram(planned: Planned) -> None:
    """On the CPU, that what is planned for a GPU fits in this machine's memory."""
    here, estimate = planned.facts.here, planned.choice.estimate
    limit = cpu_limit(here, planned.wanted)
    if here.gpus or limit is None or planned.as_given or cpu_bytes(estimate) <= limit:
        return
    raise InputError(
        f"{planned.scenario.model.id} would take {format_bytes(cpu_bytes(estimate))} of this "
        f"machine's memory and {format_bytes(limit)} may be used: dry_run=True gives the report "
        "for the GPU alone"
    )
