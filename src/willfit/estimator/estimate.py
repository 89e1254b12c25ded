"""The one door: the estimate of a scenario, by closed formulas or by a trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from willfit.estimator.by_formula import outcome_by_formula
from willfit.estimator.by_trace import Listener, outcome_by_trace
from willfit.estimator.dtype_table import dtype_rows
from willfit.estimator.limits import (
    LARGEST_BATCH,
    context_ceiling,
    largest,
    with_batch_size,
    with_context,
)
from willfit.estimator.outcome import Loaded, Outcome, load, unique
from willfit.estimator.uncertainty import wider_range
from willfit.formulas.largest_layer import largest_layer
from willfit.formulas.weights import on_machine
from willfit.results import Estimate, HostEstimate, Limits
from willfit.scenario import Scenario
from willfit.units import format_bytes


def estimate(
    scenario: Scenario,
    *,
    dtypes: Sequence[str] | None = None,
    assumptions: Sequence[str] = (),
    ignored_settings: Sequence[str] = (),
    unsupported: Sequence[str] = (),
    search_limits: bool = True,
    trace: bool = False,
    listener: Listener | None = None,
) -> Estimate:
    """What a scenario takes, by component, phase and GPU, and whether it fits.

    ``dtypes`` names the rows of the dtype table; ``search_limits`` also looks for the largest
    batch and context that fit; ``trace`` runs the real code on fake tensors (needs
    ``willfit[trace]``, takes seconds, searches no limits) and gives ``listener`` its recording.
    Raises `InputError` on settings that
    contradict each other or the model, `UnsupportedError` where no number can be given.
    """
    asked = scenario
    model = on_machine(scenario.model, scenario.workload, scenario.machine)
    scenario = replace(scenario, model=model)
    loaded = load(scenario)
    outcome = (
        outcome_by_trace(scenario, loaded, listener)
        if trace
        else outcome_by_formula(scenario, loaded)
    )
    layer, layer_bytes = largest_layer(scenario.model, outcome.weights)
    result = Estimate(
        level=outcome.level,
        scenario=asked,
        num_params=asked.model.num_params,
        num_trainable_params=outcome.num_trainable_params,
        gpus=outcome.gpus,
        host=_host(scenario, outcome),
        kv_cache_bytes=outcome.kv_cache_bytes,
        largest_layer_bytes=layer_bytes,
        largest_layer=layer,
        dtypes=dtype_rows(asked.model, scenario.stack, dtypes),
        assumptions=unique(
            [
                *assumptions,
                *scenario.model.assumptions,
                *outcome.assumptions,
                *wider_range(scenario, outcome.level),
            ]
        ),
        unsupported=unique([*unsupported, *outcome.unsupported]),
        unknowns=outcome.unknowns,
        ignored_settings=tuple(ignored_settings),
        refused=outcome.refused,
        failure=outcome.failure,
        largest_alive=outcome.largest_alive,
        off_gpu_bytes=0 if outcome.refused else sum(outcome.off_gpu),
        notes={**_offload_note(outcome), **_notes(scenario)},
    )
    if trace or not search_limits:
        return result
    return replace(result, limits=_limits(scenario, result, loaded))


def _host(scenario: Scenario, outcome: Outcome) -> HostEstimate:
    disk = sum(
        row.dtype.num_bytes(row.num_elements) * row.count
        for row in scenario.model.tensors
        if row.tied_to is None
    )
    machine = scenario.machine
    fits: bool | None = None
    if machine is not None and (machine.ram_bytes is not None or machine.disk_bytes is not None):
        ram_fits = machine.ram_bytes is None or outcome.host_bytes <= machine.ram_bytes
        fits = ram_fits and (machine.disk_bytes is None or disk <= machine.disk_bytes)
    return HostEstimate(
        ram_bytes=outcome.host_bytes, pinned_bytes=outcome.pinned_bytes, disk_bytes=disk, fits=fits
    )


def _offload_note(outcome: Outcome) -> dict[str, str]:
    """What placement leaves off the GPUs, and that it costs time."""
    if outcome.refused or not any(outcome.off_gpu):
        return {}
    host, disk = outcome.off_gpu
    parts = [f"{format_bytes(host)} of weights in host memory"] if host else []
    parts += [f"{format_bytes(disk)} of weights on disk"] if disk else []
    return {"offload": f"{' and '.join(parts)}, copied to the GPU in every pass: slow"}


def _limits(scenario: Scenario, result: Estimate, loaded: Loaded) -> Limits:
    """The largest batch and the largest context that fit, each with everything else unchanged."""
    pointless = result.refused or result.off_gpu_bytes
    if scenario.machine is None or scenario.workload.task == "load" or pointless:
        return Limits()

    def fits(changed: Scenario) -> bool:
        outcome = outcome_by_formula(changed, loaded)
        return all(bool(gpu.fits) for gpu in outcome.gpus)

    return Limits(
        batch_size=largest(lambda n: fits(with_batch_size(scenario, n)), ceiling=LARGEST_BATCH),
        context_len=largest(
            lambda n: fits(with_context(scenario, n)), ceiling=context_ceiling(scenario)
        ),
    )


def _notes(scenario: Scenario) -> dict[str, str]:
    """What the Trainer would do with several GPUs in a notebook, where nobody launches ranks.

    transformers 5.23 training_args.py `_setup_devices`, trainer.py `_wrap_model`: DataParallel
    unless the model was loaded in 4 or 8 bit, which stays on one GPU.
    """
    machine, workload = scenario.machine, scenario.workload
    several = machine is not None and len(machine.gpus) > 1
    if workload.training is None or not several or workload.loading.strategy is not None:
        return {}
    if workload.loading.quantization is not None:
        what = (
            "in a notebook the Trainer leaves all GPUs but the first idle for bitsandbytes models"
        )
    else:
        what = "in a notebook the Trainer uses DataParallel (--strategy dp): GPU 0 gathers outputs"
    return {"notebook": f"{what}; ddp needs accelerate launch or notebook_launcher"}
