"""`load`: plan, apply, and give back the real model with what was chosen for it and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from willfit.errors import InputError, WillfitError
from willfit.live.asked import Asked
from willfit.live.calls import Calls
from willfit.live.here import look
from willfit.live.loaded import Loaded, describe
from willfit.live.planned import Planned, cpu_bytes, cpu_limit, plan_load
from willfit.live.realise import load_model, load_tokenizer, put_adapter, source_of
from willfit.plan import plan
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


def _require_fit(planned: Planned) -> None:
    if planned.choice.fits or planned.as_given:
        return
    scenario, estimate = planned.scenario, planned.choice.estimate
    if estimate.refused is not None:
        raise InputError(f"{scenario.model.id} is refused: {estimate.refused}")
    if scenario.machine is None:
        limit = cpu_limit(planned.facts.here, planned.wanted) or 0
        raise InputError(
            f"{scenario.model.id} takes {format_bytes(cpu_bytes(estimate))} of this machine's "
            f"memory and {format_bytes(limit)} may be used, whatever loading changes: shorten "
            "context, or raise budget; as_given=True tries it all the same"
        )
    raise InputError(
        f"{scenario.model.id} takes {format_bytes(estimate.binding.peak.device_bytes)} and does "
        f"not fit on {describe(scenario.machine)}, whatever loading changes{_hint(scenario)}; "
        "dry_run=True shows the parts, as_given=True tries it all the same"
    )


def _hint(scenario: Scenario) -> str:
    """What a plan would change besides, or why nothing does."""
    try:
        planning = plan(scenario, top=1)
    except WillfitError:
        return ""
    if planning.plans:
        changes = ", ".join(step.change.id for step in planning.plans[0].steps)
        return f": willfit plan makes it fit with {changes}"
    return f": {planning.why_none}"


def _dry(planned: Planned) -> Loaded:
    """The report alone, with the calls on the GPUs planned for."""
    return _report(planned, None, None, planned.calls())


def _apply(planned: Planned) -> Loaded:
    """The model of what was planned, on this machine."""
    require_ram(planned)
    source = source_of(planned.scenario.model)
    adapter = planned.wanted.adapter
    calls = planned.calls_here()
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
