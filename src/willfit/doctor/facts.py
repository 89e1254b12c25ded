"""Facts of an estimate that decide a cause."""

from __future__ import annotations

from willfit.doctor.causes.facts import Facts
from willfit.formulas.training.settings import checkpointing_of
from willfit.results import Estimate


def facts_of(
    estimate: Estimate,
    gpu_index: int,
    factors: tuple[str, ...],
    explained_by: str = "",
) -> Facts:
    """What the estimate says of the GPU that failed, and what the asked-for size may be."""
    gpu = estimate.gpus[gpu_index] if gpu_index < len(estimate.gpus) else estimate.binding
    components = {part.name: part.num_bytes for part in gpu.peak.components}
    training = estimate.scenario.workload.training
    return Facts(
        weights_bytes=components.get("weights", 0) + components.get("quantization_state", 0),
        peak_device_bytes=gpu.peak.device_bytes,
        components=components,
        phase=gpu.peak.name,
        training=training is not None,
        gradient_checkpointing=checkpointing_of(training) if training is not None else None,
        capacity_bytes=gpu.capacity_bytes,
        explained_by=explained_by,
        factors=factors,
    )
