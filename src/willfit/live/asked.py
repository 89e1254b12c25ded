"""From the arguments of `load` to a scenario: names resolved, contradictions refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from willfit.dtypes import DType, parse_dtype
from willfit.errors import InputError
from willfit.live.adapter import Adapter, read_adapter
from willfit.live.here import Here
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.scenario.workload import SdpaKernel
from willfit.units import format_bytes, parse_bytes

TASKS: Final[Mapping[str, str | None]] = {
    "inference": None,
    "train": None,
    "load": None,
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "fill-mask": "AutoModelForMaskedLM",
    "feature-extraction": "AutoModel",
}
"""Auto class by task; the names with dashes are those of transformers' pipelines."""
SDPA_KERNELS: Final = ("flash", "efficient", "cudnn", "math")
BETTER_TRANSFORMER: Final = ("bettertransformer", "to_bettertransformer", "better_transformer")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `load`, which documents them."""

    model: Any
    gpu: str | None = None
    budget: str | int | None = None
    task: str | None = None
    adapter: Any = None
    dtype: Any = None
    quantize: str | None = None
    attn: str | None = None
    sdpa_kernel: str | None = None
    better_transformer: bool = False
    max_memory: Mapping[int | str, int | str] | None = None
    num_labels: int | None = None
    batch_size: int = 1
    context: int | None = None
    max_new_tokens: int | None = None
    padded: bool = False
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def wants_better_transformer(self) -> bool:
        """Whether BetterTransformer was asked for, by its flag or by its name as attention."""
        named = (self.attn or "").strip().lower().replace("-", "_")
        return self.better_transformer or named in BETTER_TRANSFORMER


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
    _refuse(asked)
    adapter = read_adapter(asked.adapter)
    model, head = _model(asked)
    budget = parse_bytes(asked.budget) if asked.budget is not None else None
    machine, assumptions = _machine(asked, here, budget)
    loading = Loading(
        dtype=_dtype(asked),
        quantization=_quantization(asked.quantize, _dtype(asked) or model.stored_dtype),
        auto_class=head,
        num_labels=asked.num_labels,
        max_memory=_max_memory(asked.max_memory),
        trust_remote_code=asked.trust_remote_code,
    )
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
        target_is_here=asked.gpu is None,
        notes=assumptions,
    )


def _refuse(asked: Asked) -> None:
    for name in ("batch_size", "context", "max_new_tokens", "num_labels"):
        number = getattr(asked, name)
        if number is not None and (not isinstance(number, int) or number < 1):
            raise InputError(f"{name} is {number!r}: expected a whole number of at least 1")
    if asked.context and asked.max_new_tokens and asked.max_new_tokens > asked.context:
        raise InputError(
            f"max_new_tokens {asked.max_new_tokens} is more than context {asked.context}, which "
            "is prompt and new tokens together"
        )
    if asked.task is not None and asked.task not in TASKS:
        raise InputError(f"unknown task {asked.task[:40]!r}: expected one of {', '.join(TASKS)}")
    if asked.sdpa_kernel not in (None, *SDPA_KERNELS):
        raise InputError(
            f"unknown sdpa_kernel {str(asked.sdpa_kernel)[:40]!r}: expected one of "
            f"{', '.join(SDPA_KERNELS)}"
        )
    if asked.better_transformer and asked.attn not in (None, "sdpa", *BETTER_TRANSFORMER):
        raise InputError(
            f"better_transformer means attn='sdpa' and contradicts attn={asked.attn!r}: "
            "leave one out"
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
    if asked.gpu is None:
        if not here.gpus:
            return None, ()
        machine = Machine(gpus=here.gpus, in_use_bytes=here.in_use_bytes, ram_bytes=here.ram_bytes)
        said = "GPUs and memory in use are those of this machine"
        return _capped(machine, budget), (said, *here.holders)
    from willfit.devices import parse_machine

    parsed = parse_machine(asked.gpu)
    return _capped(Machine(gpus=parsed.gpus), budget), parsed.assumptions


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
    from willfit.devices import context_of

    caps: dict[int | str, int] = {
        index: max(0, machine.budget_bytes(index) - context_of(gpu).nominal_bytes)
        for index, gpu in enumerate(machine.gpus)
    }
    workload = replace(scenario.workload, loading=replace(loading, max_memory=caps))
    return replace(scenario, workload=workload)


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


def _quantization(text: str | None, dtype: DType) -> Quantization | None:
    """What ``int8``, ``nf4``, ``fp4``, ``nf4-double`` or ``fp4-double`` mean.

    4-bit layers compute in the type that the model is loaded in, where that has 16 bits; the
    library's own default is float32.
    """
    if text is None:
        return None
    scheme, _, double = text.partition("-")
    if scheme not in ("int8", "nf4", "fp4") or double not in ("", "double"):
        raise InputError(
            f"unknown quantisation {text[:40]!r}: expected int8, nf4, fp4, nf4-double or "
            "fp4-double (bitsandbytes has no other)"
        )
    half = dtype.block_bytes == 2 and scheme != "int8"
    return Quantization(
        scheme=scheme,  # type: ignore[arg-type]  # checked above
        double_quant=double == "double",
        compute_dtype=dtype if half else None,
    )


def _max_memory(given: Mapping[int | str, int | str] | None) -> dict[int | str, int] | None:
    if given is None:
        return None
    wrong = [key for key in given if not (isinstance(key, int) or key in ("cpu", "disk"))]
    if wrong or not given:
        raise InputError(
            f"max_memory names {', '.join(map(repr, wrong)) or 'nothing'}: expected GPU numbers, "
            'and "cpu", such as {0: "10GiB", 1: "14GiB", "cpu": "20GiB"}'
        )
    return {key: parse_bytes(amount) for key, amount in given.items()}


def describe(machine: Machine) -> str:
    """``2 × NVIDIA T4 (14.56 GiB)``, with what may be used where that is less."""
    names = {gpu.name: 0 for gpu in machine.gpus}
    for gpu in machine.gpus:
        names[gpu.name] += 1
    least = min(machine.budget_bytes(index) for index in range(len(machine.gpus)))
    cards = ", ".join(f"{n} × {name}" if n > 1 else name for name, n in names.items())
    return f"{cards} ({format_bytes(least)} usable{' each' if len(machine.gpus) > 1 else ''})"
