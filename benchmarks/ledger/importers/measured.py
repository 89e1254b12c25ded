"""Rows of ``willfit measure --record`` and of its suites, each with its scenario in it.

On a GPU torch's counters and NVML's; without one the bytes of live tensors, which are held to the
estimate without what only CUDA has (`willfit.live.tensors`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.comparing.typed import made
from willfit.errors import BrokenFileError
from willfit.live.beside import PEAK, Computed, Key, amounts_of, by_key, expected
from willfit.live.measured.facts import on_these
from willfit.live.measurement import Measurement, measurement_from
from willfit.live.shortened import model_of
from willfit.live.tensors import without_cuda
from willfit.report.ledger import key_of, kinds
from willfit.results import Estimate
from willfit.scenario import ModelSpec, Scenario, Stack, Workload
from willfit.sources.heads import with_auto_class
from willfit.sources.resolve import resolve

ABOUT: Final = About(title="Rows of `willfit measure --record`")


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """One result per amount."""
    yield from _express(row, "formula")


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The same, on the torch that is installed, which is the only one that a trace can run."""
    yield from _express(row, "trace")


def _express(row: PublishedRow, level: Computed) -> Iterator[Expressed | NotExpressed]:
    if row.get("failure"):
        reason = f"the run failed: {str(row['failure'])[:120]}"
        yield from (NotExpressed(kind=kind, reason=reason) for kind, _ in kinds(row))
        return
    measurement = measurement_from(row["measurement"])
    scenario = _scenario(row, measurement, level)
    every = [key_of(kind) for kind, _ in kinds(row)]
    for kind, _ in kinds(row):
        gpu, phase, counter = key_of(kind)
        obstacle = _obstacle(level, phase, measurement, scenario)
        if obstacle:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        key: Key = (gpu, phase, counter)  # type: ignore[assignment]  # written by kind_of
        phases = [
            other
            for g, other, c in every
            if (g, c) == (gpu, counter)
            and other != PEAK
            and not _obstacle(level, other, measurement, scenario)
        ]
        yield Expressed(
            kind=kind,
            scenario=scenario,
            reading=_reading(scenario, measurement, level, key, phases),
        )


def _obstacle(
    level: Computed, phase: str, measurement: Measurement, scenario: Scenario
) -> str | None:
    """Why there is nothing to hold a phase's amount to."""
    loading = phase in ("load", "adapters")
    if level == "trace" and loading and not measurement.on_gpu:
        return "the loader's block, which a host has none of"
    training = scenario.workload.training is not None
    if level == "formula" and (phase == "adapters" or (training and phase == "forward")):
        return f"the formulas have no phase {phase}"
    adapted = any(reading.phase == "adapters" for reading in measurement.readings)
    if level == "trace" and phase == "load" and adapted:
        return "a trace has adapters in loading"
    return None


def _reading(
    scenario: Scenario, measurement: Measurement, level: Computed, key: Key, phases: list[str]
) -> Callable[[Estimate], int]:
    def read(found: Estimate) -> int:
        on_gpu = measurement.on_gpu
        amounts = amounts_of(found) if on_gpu else by_key(without_cuda(scenario, found))
        return expected(amounts, level, key, phases) or 0

    return read


def _scenario(row: PublishedRow, measurement: Measurement, level: Computed) -> Scenario:
    work: Workload = made(Workload, row["scenario"]["workload"], "the workload")
    stack = made(Stack, row["scenario"]["stack"], "the stack")
    versions = dict(measurement.versions)
    if level == "trace":
        versions["torch"] = importlib.metadata.version("torch")
    bare = Scenario(model=_model(row, work), workload=work, stack=stack)
    return on_these(replace(bare, machine=None), measurement.gpus, versions)


def _model(row: PublishedRow, work: Workload) -> ModelSpec:
    loading = work.loading
    config: Any = row.get("config")
    if config is None:
        return with_auto_class(resolve(row["model"]), loading.auto_class, loading.num_labels)
    if not isinstance(config, Mapping):
        raise BrokenFileError(f"row {row['id']} has a config that is no object")
    return model_of(config, str(row["model"]), loading)
