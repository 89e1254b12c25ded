"""Advice: what to do about one report, with the scenario's estimate where there is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from willfit.changes.catalogue import CHANGES
from willfit.doctor.advice.by_cause import remedies_for
from willfit.doctor.advice.planned import planned
from willfit.doctor.agreement import Agreement
from willfit.doctor.amounts import amount
from willfit.doctor.causes.cause import Cause
from willfit.doctor.diagnosis import Remedy
from willfit.doctor.report import Report, Stage
from willfit.doctor.situation import Situation, with_in_use
from willfit.errors import WillfitError
from willfit.scenario import Scenario

_MARGIN: Final = 0.03
"""Part of a peak by which an estimate and a message may differ and still agree."""
NO_SETTING_HELPS: Final = frozenset({
    "address_space", "allocator_limit", "config_mistake", "corrupted_shape_bug", "host_ram",
    "not_a_memory_problem", "not_fatal", "other_process", "per_process_cap", "pinned_host_memory",
    "placement_bug", "scheduler_split", "shm", "slots_limit", "unified_memory", "workspace_limit",
})  # fmt: skip
"""Causes that less memory on the GPU does nothing about, or that come before it."""


ENGINES: Final = ("vllm", "sglang", "tgi", "tensorrt-llm", "llama.cpp", "ollama", "lmstudio")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do, the first thing first, and what is to be said of it."""

    remedies: tuple[Remedy, ...]
    notes: tuple[str, ...] = ()
    plans: Mapping[int, tuple[Scenario, Scenario]] = field(default_factory=dict)
    """The scenario before and after all remedies of a plan, by its number."""


def advise(
    report: Report, cause: Cause, situation: Situation | None, agreement: Agreement | None
) -> Advice:
    """Changes that the planner finds for the scenario as it was, and what else there is to do."""
    if situation is None:
        return Advice(remedies=tuple(remedies_for(cause, report)))
    hints = tuple(_possible(remedies_for(cause, _staged(report, situation)), situation))
    if cause.name in NO_SETTING_HELPS or _of_an_engine(report):
        return Advice(remedies=hints)
    scenario = _as_it_was(situation, agreement)
    try:
        found = planned(scenario)
    except WillfitError as error:
        return Advice(remedies=hints, notes=(f"no plan: {error}",))
    first = tuple(_unexplained(agreement)) if agreement is not None else ()
    known = {remedy.id for remedy in (*first, *found.remedies)}
    others = () if found.remedies else tuple(x for x in hints if x.id not in known)
    why_none = (found.why_none,) if found.why_none is not None else ()
    return Advice(
        remedies=(*first, *found.remedies, *others),
        notes=(*why_none, *_in_use_note(situation, scenario)),
        plans=found.plans,
    )


def _staged(report: Report, situation: Situation) -> Report:
    """The report in the stage of the scenario's work, where the text tells of none."""
    if report.context.stage != "unknown":
        return report
    training = situation.scenario.workload.training is not None
    stage: Stage = "train-forward" if training else "inference"
    return replace(report, context=replace(report.context, stage=stage))


def _possible(hints: Iterable[Remedy], situation: Situation) -> Iterator[Remedy]:
    """Without changes that the scenario has made already, or cannot make."""
    changes = {change.id: change for change in CHANGES}
    for hint in hints:
        change = changes.get(hint.id)
        if change is None or isinstance(change.apply(situation.scenario), Scenario):
            model = situation.scenario.model.id
            yield replace(hint, snippet=hint.snippet.replace("serve MODEL ", f"serve {model} "))


def _of_an_engine(report: Report) -> bool:
    """Whether an engine speaks of its own budget, whose numbers count and not the GPU's."""
    return bool(report.family.startswith(ENGINES) and "allocated_bytes" not in report.fields)


def _as_it_was(situation: Situation, agreement: Agreement | None) -> Scenario:
    """The scenario with what is in use besides, so that it does not fit, as it did not.

    What is to be found is the change that would have served the request that failed: where the
    estimate alone fits, so much is counted as in use that it is short by what was missing.
    """
    if agreement is None or agreement.held.total_bytes is None:
        return situation.scenario
    machine = situation.scenario.machine
    assert machine is not None
    held, peak = agreement.held, agreement.gpu.peak
    assert held.total_bytes is not None
    missing = max(held.tried_bytes - (held.free_bytes or 0), 1)
    short_of = held.total_bytes + missing
    besides = short_of - peak.device_bytes - machine.in_use(situation.gpu)
    margin = -int(_MARGIN * peak.device_bytes)
    return with_in_use(situation, besides) if besides > margin else situation.scenario


def _in_use_note(situation: Situation, scenario: Scenario) -> tuple[str, ...]:
    if scenario is situation.scenario or scenario.machine is None:
        return ()
    used = scenario.machine.in_use(situation.gpu)
    if used <= 0:
        return ()
    return (f"planned with {amount(used)} in use besides these settings, as the message shows",)


def _unexplained(agreement: Agreement) -> Iterator[Remedy]:
    """What these settings do not explain has to be found before anything is changed."""
    if agreement.agrees:
        return
    scenario, peak = agreement.estimate.scenario, agreement.gpu.peak.allocated_bytes
    batch = agreement.batch
    if batch is not None:
        yield Remedy(
            id="batch_in_effect",
            title=f"See how many rows a batch has: {batch.rows} would explain this",
            saves_bytes=batch.allocated_bytes - peak,
            snippet='print(batch["input_ids"].shape)   # in the step that failed',
        )
    for suspect in agreement.suspects:
        if suspect.id == "quantization":
            quantization = scenario.workload.loading.quantization
            name = quantization.scheme if quantization is not None else "quantisation"
            yield Remedy(
                id="quantization_in_effect",
                title=(
                    f"See whether {name} is in effect: without it these settings need "
                    f"{amount(suspect.allocated_bytes)}"
                ),
                saves_bytes=suspect.allocated_bytes - peak,
                snippet=suspect.check,
            )
    yield Remedy(
        id="fresh_process",
        title=(
            f"Find what else holds {amount(agreement.unexplained_bytes)}: start in a fresh "
            "process, or release what an earlier run left"
        ),
        saves_bytes=agreement.unexplained_bytes,
        snippet=(
            "import willfit\n"
            "willfit.release()   # frees what it can on every GPU, and names who holds the rest"
        ),
    )
