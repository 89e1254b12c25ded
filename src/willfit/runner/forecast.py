"""What a stage will take, before it begins: refused with its plan, or a batch that fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psutil  # type: ignore[import-untyped]  # it has no stubs

from willfit.changes import changes_for
from willfit.errors import UnsupportedError, WillfitError
from willfit.estimator import estimate
from willfit.estimator.limits import LARGEST_BATCH, largest, with_batch_size
from willfit.live.asked import Asked
from willfit.live.here import Here, installed_stack
from willfit.live.loaded import describe
from willfit.live.nvml import LiveGpu
from willfit.live.planned import cpu_bytes
from willfit.live.wanted import wanted
from willfit.planning import plan
from willfit.planning.result import Step
from willfit.results import Estimate
from willfit.runner.pipeline import StageFile
from willfit.runner.result import Forecast
from willfit.scenario import Scenario
from willfit.units import format_bytes

CPU_TOKENS: Final = 16_384
"""Padded tokens of a batch to begin with where no GPU limits it: caches, not memory, decide."""
AUTO_TASKS: Final = {
    "classify": "text-classification",
    "generate": "text-generation",
    "choose": "text-generation",
    "embed": "feature-extraction",
}
"""`willfit.load`'s name of each task."""
SETTINGS: Final = {
    "dtype": "dtype",
    "quantize": "quantize",
    "attn": "attn",
    "context": "max_length",
}
"""Settings of changes that a pipeline file has, by the name there."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a forecast needs to know of the rows."""

    longest: int
    """Tokens of the longest sequence, with those that will be generated."""
    sequences: int = 1
    """Sequences of a row."""
    most_rows: int = LARGEST_BATCH
    """Rows of a batch at most."""


def forecast(
    stage: StageFile, sizes: Sizes, gpus: Sequence[LiveGpu], others: Sequence[LiveGpu] = ()
) -> Forecast:
    """The estimate of one replica on ``gpus`` (none: the CPU), at the longest row.

    ``others``: all GPUs that the stage may use, which a refusal may propose. A stage that nobody
    can estimate goes ahead with a remark: a function of the user's, or a model without a formula.
    Raises `InputError` on settings that exclude each other.
    """
    if stage.run is not None:
        return Forecast(remarks=("a function of yours: its memory is not estimated",))
    scenario = scenario_of(stage, sizes, gpus)
    try:
        if not gpus:
            return _on_cpu(scenario, sizes)
        return _on_gpus(scenario, sizes, others)
    except UnsupportedError as error:
        return Forecast(batch_tokens=sizes.longest * sizes.sequences, remarks=(f"{error}",))


def scenario_of(stage: StageFile, sizes: Sizes, gpus: Sequence[LiveGpu]) -> Scenario:
    """The stage as the estimator knows it: one replica, one row."""
    asked = Asked(
        model=stage.model,
        task=AUTO_TASKS[str(stage.task)],
        adapter=stage.adapter,
        dtype=None if stage.dtype == "auto" else stage.dtype,
        quantize=stage.quantize,
        attn=stage.attn,
        num_labels=stage.labels if stage.task == "classify" else None,
        batch_size=sizes.sequences,
        context=sizes.longest,
        max_new_tokens=min(stage.max_new_tokens or 256, sizes.longest)
        if stage.task == "generate"
        else None,
        padded=True,
        revision=stage.revision,
        trust_remote_code=stage.trust_remote_code,
    )
    here = Here(
        gpus=tuple(live.gpu for live in gpus),
        in_use_bytes=tuple(live.used_bytes for live in gpus),
        ram_bytes=int(psutil.virtual_memory().available),
        stack=installed_stack(),
    )
    found = wanted(asked, here).scenario
    infers = found.workload.inference
    if infers is None:  # no formula for its layers: the weights alone are known
        return found
    infers = replace(infers, use_cache=stage.task == "generate", engine=stage.engine)
    return replace(found, workload=replace(found.workload, inference=infers))


def _on_cpu(scenario: Scenario, sizes: Sizes) -> Forecast:
    """The host's memory decides."""
    needed = cpu_bytes(estimate(scenario, search_limits=False))
    free = int(psutil.virtual_memory().available)
    tokens = max(CPU_TOKENS, sizes.longest * sizes.sequences)
    if needed <= free:
        return Forecast(batch_tokens=tokens, host_bytes=needed)
    return Forecast(
        refused=f"{scenario.model.id} takes {format_bytes(needed)} on the CPU and "
        f"{format_bytes(free)} of this machine's memory are free: use a machine with a GPU, or "
        "shorten max_length"
    )


def _on_gpus(scenario: Scenario, sizes: Sizes, others: Sequence[LiveGpu]) -> Forecast:
    found = estimate(scenario, search_limits=False)
    if found.refused is not None:
        return Forecast(refused=f"{scenario.model.id} is refused: {found.refused}")
    if not _fits(found):
        return Forecast(refused=_refusal(scenario, found, others), device_bytes=_devices(found))
    rows = _largest(scenario, sizes)
    at_most = estimate(with_batch_size(scenario, rows * sizes.sequences), search_limits=False)
    return Forecast(
        device_bytes=_devices(at_most),
        batch_tokens=rows * sizes.sequences * sizes.longest,
        host_bytes=found.host.ram_bytes,
    )


def _fits(found: Estimate) -> bool:
    """With what is known; what is not is found out by the first batch, which is the largest."""
    return bool(found.fits) and found.off_gpu_bytes == 0


def _devices(found: Estimate) -> tuple[int, ...]:
    return tuple(gpu.peak.device_bytes for gpu in found.gpus)


def _largest(scenario: Scenario, sizes: Sizes) -> int:
    """Rows of the largest batch whose whole range fits; one where only the nominal does."""

    def fits(rows: int) -> bool:
        tried = estimate(with_batch_size(scenario, rows * sizes.sequences), search_limits=False)
        return _fits(tried) and tried.verdict == "fits"

    return largest(fits, ceiling=min(sizes.most_rows, LARGEST_BATCH)) or 1


def _refusal(scenario: Scenario, found: Estimate, others: Sequence[LiveGpu]) -> str:
    """What it takes, what there is, and what in the pipeline file would make it fit."""
    assert scenario.machine is not None
    takes = f"{scenario.model.id} takes {format_bytes(found.binding.peak.device_bytes)} a GPU"
    if found.off_gpu_bytes:
        takes = f"{scenario.model.id} leaves {format_bytes(found.off_gpu_bytes)} outside the GPUs"
    remedies = [*_by_plan(scenario), *_by_more_gpus(scenario, others)]
    return (
        f"{takes} and does not fit on {describe(scenario.machine)}: "
        f"{'it would with ' + ', or with '.join(remedies) if remedies else _why_none(scenario)}"
    )


def _by_plan(scenario: Scenario) -> Iterator[str]:
    """The first plans, of settings that a stage has."""
    changes = [change for change in changes_for(scenario) if change.setting in SETTINGS]
    try:
        planning = plan(scenario, top=2, changes=changes)
    except WillfitError:
        return
    for found in planning.plans:
        if found.steps:
            yield " and ".join(map(_setting, found.steps))


def _setting(step: Step) -> str:
    """``quantize: int8 (saves 8.41 GiB)``."""
    name, _, value = step.change.id.partition("=")
    key = SETTINGS.get(step.change.setting, name)
    return f"{key}: {value or 'true'} (saves {format_bytes(step.saves_bytes)})"


def _by_more_gpus(scenario: Scenario, others: Sequence[LiveGpu]) -> Iterator[str]:
    """The model spread over more of the GPUs that there are."""
    assert scenario.machine is not None
    for count in range(len(scenario.machine.gpus) + 1, len(others) + 1):
        machine = replace(
            scenario.machine,
            gpus=tuple(live.gpu for live in others[:count]),
            in_use_bytes=tuple(live.used_bytes for live in others[:count]),
        )
        try:
            fits = _fits(estimate(replace(scenario, machine=machine), search_limits=False))
        except WillfitError:
            return
        if fits:
            yield f"gpus_per_replica: {count}"
            return


def _why_none(scenario: Scenario) -> str:
    try:
        why = plan(scenario, top=1, changes=()).why_none
    except WillfitError as error:
        return f"no plan could be made ({error})"
    return f"no setting of a stage makes it fit{f' ({why})' if why else ''}"
