"""The allocator's configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from willfit.changes.change import Change, guarded
from willfit.changes.current import gpus
from willfit.changes.guards import at_least, works
from willfit.scenario import Scenario

EXPANDABLE: Final = "expandable_segments:True"


def _configured(scenario: Scenario) -> Scenario:
    others = [
        part
        for part in scenario.stack.alloc_conf.split(",")
        if part.strip() and not part.strip().lower().startswith("expandable_segments")
    ]
    return replace(
        scenario, stack=replace(scenario.stack, alloc_conf=",".join([*others, EXPANDABLE]))
    )


def _grows_segments(scenario: Scenario) -> str | None:
    if scenario.stack.expandable_segments:
        return "segments are expandable"
    if "cudamallocasync" in scenario.stack.alloc_conf.lower():
        return "cudaMallocAsync has no segments"
    if any(gpu.vendor != "nvidia" for gpu in gpus(scenario)):
        return "it is a setting of the CUDA allocator"
    inference = scenario.workload.inference
    if inference is not None and inference.engine == "llama.cpp":
        return "llama.cpp does not use PyTorch"
    return None


ALLOCATOR: Final = (
    Change(
        id="alloc_conf=expandable_segments:True",
        setting="alloc_conf",
        title="Let the allocator grow its segments (PYTORCH_CUDA_ALLOC_CONF)",
        apply=guarded(_configured, works, at_least("torch", "2.1"), _grows_segments),
    ),
)
