"""What inference and training have in common: the GPUs, the attention kernel, what is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from willfit.dtypes import DType
from willfit.estimator.speed.prepared import rates
from willfit.estimator.spread import strategy_of
from willfit.formulas.attention import choose_kernel
from willfit.formulas.inference.activations import attention_shape
from willfit.formulas.timing.anatomy import Anatomy
from willfit.formulas.timing.forward import SPLITS_SINCE
from willfit.formulas.timing.span import Span
from willfit.scenario import Scenario
from willfit.scenario.machine import Gpu
from willfit.scenario.workload import SdpaKernel

REPLICATED: Final = ("ddp", "dp", "fsdp", "zero1", "zero2", "zero3", "replicas")
"""Strategies under which every GPU has samples of its own."""
BASIS: Final = "times by formula: rates of the card and a range of efficiencies, nothing was run"


def gpus_of(scenario: Scenario) -> tuple[Gpu | None, ...]:
    """The GPUs, or one nameless."""
    return scenario.machine.gpus if scenario.machine is not None else (None,)


def span(values: Sequence[float]) -> Span:
    """Fast, nominal and slow as a span."""
    return Span(values[0], values[1], values[2])


def attention_kernel(
    scenario: Scenario,
    anatomy: Anatomy,
    implementation: str,
    dtype: DType,
    *,
    batch: int,
    length: int,
    masked: bool,
    forced: SdpaKernel | None,
    training: bool,
) -> str:
    """The attention kernel of most layers, as the memory formulas choose it."""
    mixers = anatomy.decoder.mixers
    if not mixers:
        return "none"
    if forced is not None and implementation == "sdpa":
        return _split(forced, scenario)
    _, attention = max(mixers, key=lambda mixer: mixer[0])
    window = attention.window is not None and length > attention.window
    shape = attention_shape(
        attention,
        dtype,
        batch=batch,
        q_len=length,
        kv_len=length,
        masked=masked or window or anatomy.architecture.relative_bias,
        training=training,
    )
    gpu = gpus_of(scenario)[0]
    chosen = choose_kernel(shape, implementation=implementation, gpu=gpu, stack=scenario.stack)
    return _split(chosen.name, scenario)


def _split(name: str, scenario: Scenario) -> str:
    """SDPA's flash kernel splits the keys of a single query over blocks since torch 2.2."""
    split = name == "flash" and scenario.stack.at_least("torch", SPLITS_SINCE)
    return "flash_split" if split else name


def notes(scenario: Scenario, kernel: str) -> tuple[str, ...]:
    """What the times rest on."""
    found = [BASIS, f"attention kernel {kernel.removesuffix('_split')}"]
    if len(gpus_of(scenario)) > 1 and strategy_of(scenario) == "device_map":
        found.append("device_map runs the GPUs one after the other: memory, not speed")
    if rates(gpus_of(scenario)[0]).host > 1:
        found.append("a slow host, as notebooks have with this card")
    return tuple(found)


def unsupported(scenario: Scenario) -> tuple[str, ...]:
    """What the times leave out or take from elsewhere."""
    found: list[str] = []
    gpu = gpus_of(scenario)[0]
    taken = rates(gpu)
    if not taken.known:
        what = "no GPU was named" if gpu is None else f"the rates of {gpu.name} are not known"
        found.append(f"{what}: times are those of {taken.name}")
    architecture = scenario.model.architecture
    if architecture is not None and any(g.recurrent is not None for g in architecture.layers):
        found.append("the scan of state-space and linear-attention layers is not in the time")
    return tuple(found)
