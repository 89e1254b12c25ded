"""A saved estimate as a result again; its model is looked up only where no network is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from willfit.comparing.result import Compared
from willfit.comparing.typed import made
from willfit.dtypes import parse_dtype
from willfit.errors import BrokenFileError, WillfitError
from willfit.live.beside import Line
from willfit.live.measurement import measurement_from
from willfit.results import (
    Component,
    Estimate,
    GpuEstimate,
    HostEstimate,
    Level,
    Limits,
    PhaseEstimate,
)
from willfit.scenario import Machine, ModelSpec, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED

_ONE_GPU: Final = "one GPU"


def estimate_from(saved: Mapping[str, Any]) -> Estimate:
    """The estimate of a ``willfit.estimate/1`` object, each GPU with its peak phase alone.

    Raises `BrokenFileError` where the object lacks what the contract promises.
    """
    try:
        return _estimate(saved)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise BrokenFileError(
            "a saved estimate lacks its components or its peak: "
            "save it again with 'willfit estimate … --json'"
        ) from None


def compared_from(saved: Mapping[str, Any], label: str) -> Compared:
    """A side of a ``willfit.measurement/1`` object, with the estimate that was beside it.

    Raises `BrokenFileError` where it is none.
    """
    try:
        run = measurement_from(saved)
        kept = saved.get("estimates") or {}
        found = next((kept[level] for level in ("trace", "formula") if kept.get(level)), None)
        return Compared(
            label=label,
            estimate=None if found is None else estimate_from(found),
            repeats=(run,),
            lines=tuple(map(_line, saved.get("lines") or ())),
            saved=found,
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise BrokenFileError(
            "a saved measurement lacks its readings: save it again with 'willfit measure … --json'"
        ) from None


def _line(row: Mapping[str, Any]) -> Line:
    names = ("gpu_index", "phase", "kind", "measured_bytes", "formula_bytes", "trace_bytes")
    line: Line = made(Line, {name: row[name] for name in names}, "lines")
    return line


def _estimate(saved: Mapping[str, Any]) -> Estimate:
    scenario = _scenario(saved)
    return Estimate(
        level=made(Level, saved["level"], "level"),
        scenario=scenario,
        num_params=_count(saved["model"], "num_params"),
        num_trainable_params=_count(saved["model"], "num_trainable_params"),
        gpus=tuple(_gpus(saved)),
        host=made(HostEstimate, saved["host"], "host"),
        kv_cache_bytes=made(int | None, saved["kv_cache_bytes"], "kv_cache_bytes"),
        largest_layer_bytes=_count(saved, "largest_layer_bytes"),
        largest_layer=_text(saved.get("largest_layer", "")),
        limits=made(Limits, saved.get("limits", {}), "limits"),
        assumptions=_texts(saved["assumptions"]),
        unsupported=_texts(saved["unsupported"]),
        ignored_settings=_texts(saved["ignored_settings"]),
        refused=_text(saved["refused"]) if saved.get("refused") else None,
        off_gpu_bytes=_count(saved, "off_gpu_bytes") if "off_gpu_bytes" in saved else 0,
    )


def _gpus(saved: Mapping[str, Any]) -> list[GpuEstimate]:
    peak, ends = saved["peak"], saved["range"]
    low, high = _count(ends, "low_device_bytes"), _count(ends, "high_device_bytes")
    if not saved["per_gpu"]:
        phase = _phase(peak, _text(peak["phase"]), saved["components"])
        return [_gpu({"index": 0, "name": _ONE_GPU}, phase, low, high)]
    found = []
    for one in saved["per_gpu"]:
        phase = _phase(one, _text(one.get("phase", peak["phase"])), one["components"])
        binding = one["index"] == peak["gpu_index"]
        nominal = phase.device_bytes
        found.append(_gpu(one, phase, *((low, high) if binding else (nominal, nominal))))
    return found


def _gpu(one: Mapping[str, Any], phase: PhaseEstimate, low: int, high: int) -> GpuEstimate:
    return GpuEstimate(
        index=_count(one, "index"),
        name=_text(one["name"]),
        phases=(phase,),
        capacity_bytes=made(int | None, one.get("capacity_bytes"), "capacity_bytes"),
        budget_bytes=made(int | None, one.get("budget_bytes"), "budget_bytes"),
        low_device_bytes=low,
        high_device_bytes=high,
        layers=_text(one.get("layers", "")),
    )


def _phase(
    amounts: Mapping[str, Any], name: str, components: Sequence[Mapping[str, Any]]
) -> PhaseEstimate:
    return PhaseEstimate(
        name=name,
        allocated_bytes=_count(amounts, "allocated_bytes"),
        reserved_bytes=_count(amounts, "reserved_bytes"),
        device_bytes=_count(amounts, "device_bytes"),
        components=tuple(
            Component(
                name=_text(part["name"]),
                num_bytes=_count(part, "bytes"),
                note=_text(part.get("note", "")),
            )
            for part in components
        ),
    )


def _scenario(saved: Mapping[str, Any]) -> Scenario:
    scenario = saved["scenario"]
    workload = made(Workload, scenario["workload"], "scenario.workload")
    stack = made(Stack, scenario["stack"], "scenario.stack")
    return Scenario(
        model=_model(saved, workload),
        workload=workload,
        machine=made(Machine | None, scenario["machine"], "scenario.machine"),
        stack=replace(stack, versions={**TESTED, **stack.versions}),
    )


def _model(saved: Mapping[str, Any], workload: Workload) -> ModelSpec:
    """The catalogue's model where it is that one, else what the file says of it: no shapes."""
    said, plain = saved["model"], saved["scenario"]["model"]
    name = _text(said["id"])
    if said["source"] == "catalogue":
        found = _from_catalogue(name, workload)
        if found is not None and found.num_params == said["num_params"]:
            return found
    return ModelSpec(
        id=name,
        library=_text(said["library"]),
        source=_text(said["source"]),
        standing=_text(said.get("standing", "")),
        model_class=_text(plain["model_class"]),
        tensors=(),
        stored_dtype=parse_dtype(_text(plain["stored_dtype"])),
        architecture=None,
        stated_num_params=_count(said, "num_params"),
    )


def _from_catalogue(name: str, workload: Workload) -> ModelSpec | None:
    from willfit.sources.catalogue import load
    from willfit.sources.heads import with_auto_class

    loading = workload.loading
    try:
        found = load(name)
        return found and with_auto_class(found, loading.auto_class, loading.num_labels)
    except WillfitError:
        return None


def _count(value: Mapping[str, Any], name: str) -> int:
    found: int = made(int, value[name], name)
    return found


def _text(value: Any) -> str:
    """Text from a file, harmless on a terminal."""
    words: str = made(str, " ".join(str(value).split()), "a text") if value is not None else ""
    return words


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(_text, values))
