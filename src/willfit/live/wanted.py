"""From the arguments of `load` to a scenario: names resolved, contradictions refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from willfit.changes.edit import with_loading
from willfit.devices import context_of, parse_machine
from willfit.dtypes import DType, parse_dtype
from willfit.errors import InputError
from willfit.formulas.weights import loading_dtype
from willfit.live.adapter import Adapter, read_adapter
from willfit.live.asked import TASKS, Asked, max_memory_of, quantization_of, refuse
from willfit.live.here import Here
from willfit.scenario import (
    Gpu,
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Scenario,
    Training,
    Workload,
)
from willfit.scenario.workload import SdpaKernel
from willfit.units import parse_bytes


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for, as a scenario."""

    scenario: Scenario
    adapter: Adapter | None
    fixed: frozenset[str]
    """Settings that the user gave (``dtype``, ``quantize``, ``max_memory``): they stay."""
    budget_bytes: int | None
    target_is_here: bool
    """Whether the scenario's machine is this one."""
    notes: tuple[str, ...] = ()


def wanted(asked: Asked, here: Here) -> Wanted:
    """The scenario of the arguments on the GPUs named, else on those of this machine."""
    refuse(asked)
    adapter = read_adapter(asked.adapter)
    model, head = _model(asked)
    budget = parse_bytes(asked.budget) if asked.budget is not None else None
    machine, assumptions = _machine(asked, here, budget)
    loading = Loading(
        dtype=_dtype(asked),
        quantization=quantization_of(asked.quantize),
        auto_class=head,
        num_labels=asked.num_labels,
        max_memory=max_memory_of(asked.max_memory),
        trust_remote_code=asked.trust_remote_code,
    )
    loading = _computing(loading, loading_dtype(model, loading, here.stack)[0])
    _refuse_devices(loading, machine)
    scenario = Scenario(
        model=model, workload=_workload(asked, model, loading, adapter), machine=machine,
        stack=here.stack,
    )  # fmt: skip
    given = {name for name in ("dtype", "quantize", "max_memory") if getattr(asked, name)}
    return Wanted(
        scenario=_within(scenario, budget),
        adapter=adapter,
        fixed=frozenset(given),
        budget_bytes=budget,
        target_is_here=asked.gpu is None or (machine is not None and machine.gpus == here.gpus),
        notes=assumptions,
    )


def _refuse_devices(loading: Loading, machine: Machine | None) -> None:
    """``max_memory`` for a GPU that is not there."""
    count = len(machine.gpus) if machine is not None else 0
    for device in loading.max_memory or {}:
        if machine is not None and isinstance(device, int) and device >= count:
            there = "one GPU, number 0" if count == 1 else f"GPUs 0 to {count - 1}"
            raise InputError(
                f"max_memory names GPU {device} and there is {there}: name those that are there"
            )


def _model(asked: Asked) -> tuple[ModelSpec, str | None]:
    """The checkpoint as the auto class of the task builds it, and that class where one is named."""
    from willfit.sources.heads import with_auto_class
    from willfit.sources.resolve import resolve

    spec = asked.model
    if not isinstance(spec, ModelSpec):
        spec = resolve(
            str(spec), revision=asked.revision, trust_remote_code=asked.trust_remote_code
        )
    if spec.library != "transformers":
        other = "llama.cpp runs it" if spec.library == "gguf" else "timm.create_model loads it"
        raise InputError(
            f"{spec.id} is a {spec.library} model, and willfit.load loads those of transformers: "
            f"{other}, and willfit.estimate says what it takes"
        )
    head = TASKS.get(asked.task or "")
    return with_auto_class(spec, head, asked.num_labels), head


def _machine(
    asked: Asked, here: Here, budget: int | None
) -> tuple[Machine | None, tuple[str, ...]]:
    """The GPUs to plan for, each with what others and the budget leave of it."""
    if asked.gpu is not None:
        parsed = parse_machine(asked.gpu)
        if not _are_here(parsed.gpus, here):
            return _capped(Machine(gpus=parsed.gpus), budget), parsed.assumptions
    if not here.gpus:
        return None, ()
    machine = Machine(gpus=here.gpus, in_use_bytes=here.in_use_bytes, ram_bytes=here.ram_bytes)
    said = "GPUs and memory in use are those of this machine"
    return _capped(machine, budget), (said, *here.holders)


def _are_here(gpus: Sequence[Gpu], here: Here) -> bool:
    """Whether the GPUs that were named are those of this machine."""
    return [gpu.name for gpu in gpus] == [gpu.name for gpu in here.gpus]


def _capped(machine: Machine, budget: int | None) -> Machine:
    """The machine of which each GPU may be used up to ``budget``: the rest counts as in use."""
    if budget is None:
        return machine
    in_use = tuple(
        max(machine.in_use(index), gpu.usable_bytes - budget)
        for index, gpu in enumerate(machine.gpus)
    )
    return replace(machine, in_use_bytes=in_use)


def _within(scenario: Scenario, budget: int | None) -> Scenario:
    """``max_memory`` of a budget, where placement would otherwise fill the GPUs.

    A limit there is for weights alone, so the context is taken off; the estimate judges the rest.
    """
    machine, loading = scenario.machine, scenario.workload.loading
    if budget is None or machine is None or len(machine.gpus) < 2 or loading.max_memory:
        return scenario
    caps: dict[int | str, int] = {
        index: max(0, machine.budget_bytes(index) - context_of(gpu).nominal_bytes)
        for index, gpu in enumerate(machine.gpus)
    }
    return with_loading(scenario, max_memory=caps)


def _workload(
    asked: Asked, model: ModelSpec, loading: Loading, adapter: Adapter | None
) -> Workload:
    lora = adapter.lora if adapter is not None else None
    attn = "sdpa" if asked.wants_better_transformer else asked.attn
    kernel: SdpaKernel | None = asked.sdpa_kernel  # type: ignore[assignment]  # checked before
    unknown = model.architecture is None and asked.task != "train"
    if asked.task == "load" or unknown:  # the formulas know its weights alone
        return Workload(loading=loading)
    if asked.task == "train":
        training = Training(
            method="full" if adapter is None else ("qlora" if _is_4bit(loading) else "lora"),
            lora=lora,
            prepare_kbit=False,
            micro_batch_size=asked.batch_size,
            max_length=asked.context,
            padded=asked.padded,
            attn=attn,
            sdpa_kernel=kernel,
        )
        return Workload(loading=loading, training=training)
    inference = Inference(
        batch_size=asked.batch_size,
        context_len=asked.context,
        max_new_tokens=asked.max_new_tokens,
        padded=asked.padded,
        attn=attn,
        sdpa_kernel=kernel,
        lora=lora,
    )
    return Workload(loading=loading, inference=inference)


def _is_4bit(loading: Loading) -> bool:
    return loading.quantization is not None and loading.quantization.scheme != "int8"


def _dtype(asked: Asked) -> DType | None:
    if asked.dtype is None or asked.dtype == "auto":
        return None
    dtype = parse_dtype(str(asked.dtype))
    if not dtype.is_floating or dtype.block_bytes == 1:
        raise InputError(
            f"dtype {dtype.name} is not a type to load in: use float32, float16 or bfloat16, and "
            "quantize='int8' or 'nf4' for fewer bits"
        )
    return dtype


def _computing(loading: Loading, dtype: DType) -> Loading:
    """4-bit layers compute in the type of the rest where that has 16 bits.

    The library's own default is float32.
    """
    given = loading.quantization
    if given is None or given.scheme == "int8" or dtype.block_bytes != 2:
        return loading
    return replace(loading, quantization=replace(given, compute_dtype=dtype))
