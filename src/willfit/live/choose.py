"""The least change under which a model fits: a plan's, else one of a few that no plan makes.

What is given stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from willfit.changes import changes_for
from willfit.devices import context_of
from willfit.dtypes import BFLOAT16, FLOAT16, DType
from willfit.errors import InputError, UnsupportedError
from willfit.estimator import estimate
from willfit.formulas.weights import loading_dtype
from willfit.plan import plan
from willfit.plan.result import Step
from willfit.results import Estimate
from willfit.scenario import Loading, Quantization, Scenario
from willfit.units import format_bytes

_HALF: Final = (FLOAT16, BFLOAT16)
Judge = Callable[[Scenario, Estimate], bool]
"""Whether an estimate is good enough to load."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What will be loaded, and what it took to make it fit."""

    scenario: Scenario
    estimate: Estimate
    changes: tuple[str, ...] = ()
    """Settings that were not asked for, as arguments of `load`; empty where it fits as asked."""
    fits: bool = True
    asked: Estimate | None = None
    """The estimate of what was asked for, where that does not fit."""
    reasons: tuple[str, ...] = ()
    """What each change saves and costs, where a plan made it."""


_LOADS: Final = frozenset({"dtype", "quantize", "bnb_4bit_compute_dtype"})
"""Settings of changes that loading alone can make."""


def choose(
    scenario: Scenario, fixed: frozenset[str], half: DType, allowed: Callable[[Scenario], bool],
    judge: Judge,
) -> Choice:  # fmt: skip
    """The first candidate that ``allowed`` admits and ``judge`` accepts, else the scenario itself.

    Raises what `estimate` raises for the scenario as it is; a candidate without a number is
    passed over.
    """
    first = estimate(scenario, search_limits=False)
    if judge(scenario, first):
        return Choice(scenario=scenario, estimate=first)
    planned = _planned(scenario, fixed, allowed, first)
    if planned is not None:
        return planned
    for changes, candidate in candidates(scenario, fixed, half):
        if not allowed(candidate):
            continue
        try:
            found = estimate(candidate, search_limits=False)
        except (InputError, UnsupportedError):
            continue
        if judge(candidate, found):
            return Choice(scenario=candidate, estimate=found, changes=changes, asked=first)
    return Choice(scenario=scenario, estimate=first, fits=False)


def _planned(
    scenario: Scenario, fixed: frozenset[str], allowed: Callable[[Scenario], bool], asked: Estimate
) -> Choice | None:
    """The best plan of changes that loading can make; None where there is none."""
    if scenario.machine is None:
        return None
    free = _LOADS - fixed
    changes = [change for change in changes_for(scenario) if change.setting in free]
    for found in plan(scenario, changes=changes).plans:
        if found.steps and allowed(found.scenario):
            before, after = scenario.workload.loading, found.scenario.workload.loading
            return Choice(
                scenario=found.scenario,
                estimate=found.estimate,
                changes=_words(before, after),
                asked=asked,
                reasons=tuple(map(_reason, found.steps)),
            )
    return None


def _reason(step: Step) -> str:
    saves = f"{step.change.title}: saves {format_bytes(step.saves_bytes)}"
    return f"{saves}; {step.change.quality_reason}" if step.change.quality_reason else saves


def candidates(
    scenario: Scenario, fixed: frozenset[str], half: DType
) -> Iterator[tuple[tuple[str, ...], Scenario]]:
    """Scenarios in the order of what they cost, each with its changes in words."""
    loading = scenario.workload.loading
    schemes = ("int8", "nf4") if _may_quantise(scenario, fixed) else ()
    for scheme in (None, *schemes):
        for dtype in _dtypes(scenario, fixed, half):
            changed = _with(loading, dtype, scheme)
            if changed != loading:
                yield _words(loading, changed), with_loading(scenario, changed)
    offloaded = _offloaded(scenario, fixed, half)
    if offloaded is not None:
        yield (
            (*_words(loading, offloaded), "max_memory with 'cpu': part of the weights on the host"),
            with_loading(scenario, offloaded),
        )


def with_loading(scenario: Scenario, loading: Loading) -> Scenario:
    """The scenario loaded otherwise."""
    return replace(scenario, workload=replace(scenario.workload, loading=loading))


def _may_quantise(scenario: Scenario, fixed: frozenset[str]) -> bool:
    full = scenario.workload.training is not None and scenario.workload.training.method == "full"
    return "quantize" not in fixed and scenario.model.quantization is None and not full


def _dtypes(scenario: Scenario, fixed: frozenset[str], half: DType) -> tuple[DType | None, ...]:
    """The type as it is, then 16 bit; bfloat16 too where float16 would leave parts in float32."""
    loading = scenario.workload.loading
    taken, _ = loading_dtype(scenario.model, loading, scenario.stack)
    if "dtype" in fixed:
        return (loading.dtype,)
    if taken in _HALF:
        return (loading.dtype,)
    return (half, BFLOAT16) if scenario.model.keep_in_fp32 and half is FLOAT16 else (half,)


def _with(loading: Loading, dtype: DType | None, scheme: str | None) -> Loading:
    if scheme is None:
        return replace(loading, dtype=dtype, quantization=_recast(loading.quantization, dtype))
    compute = dtype if scheme != "int8" and dtype in _HALF else None
    quantization = Quantization(scheme=scheme, compute_dtype=compute)  # type: ignore[arg-type]  # ours
    return replace(loading, dtype=dtype, quantization=quantization)


def _recast(given: Quantization | None, dtype: DType | None) -> Quantization | None:
    """The same quantisation, computing in the 16-bit type that the rest is loaded in."""
    if given is None or given.scheme == "int8" or dtype not in _HALF:
        return given
    return replace(given, compute_dtype=dtype)


def _offloaded(scenario: Scenario, fixed: frozenset[str], half: DType) -> Loading | None:
    """Weights to the GPUs as far as they go, the rest to host memory; bitsandbytes refuses that."""
    machine, loading = scenario.machine, scenario.workload.loading
    pointless = scenario.workload.training is not None or "max_memory" in fixed
    if machine is None or pointless or loading.quantization is not None:
        return None
    caps: dict[int | str, int] = {
        index: int(0.9 * max(0, machine.budget_bytes(index) - context_of(gpu).nominal_bytes))
        for index, gpu in enumerate(machine.gpus)
    }
    caps["cpu"] = machine.ram_bytes if machine.ram_bytes is not None else 2**50
    return replace(loading, dtype=_dtypes(scenario, fixed, half)[0], max_memory=caps)


def _words(before: Loading, after: Loading) -> tuple[str, ...]:
    words = []
    if after.dtype != before.dtype and after.dtype is not None:
        words.append(f"dtype='{after.dtype.name}'")
    if after.quantization is not None and before.quantization is None:
        double = "-double" if after.quantization.double_quant else ""
        words.append(f"quantize='{after.quantization.scheme}{double}'")
    return tuple(words)
