"""Loading: the type of the weights and their quantisation."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from willfit.changes.change import Change, Edit, Guard, Quality, guarded
from willfit.changes.current import dtype_of, half_of, lowest_sm, model_type
from willfit.changes.edit import with_loading, with_training
from willfit.changes.guards import full, on_transformers, trains, with_bitsandbytes
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from willfit.scenario import Quantization, Scenario

OVERFLOWS: Final = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4", "plamo2"})
"""Model types whose activations leave float16's range (vLLM config/model.py
``_FLOAT16_NOT_SUPPORTED_MODELS``)."""

_KALAMKAR: Final = (
    "16-bit products: bfloat16 matched float32 in every model of Kalamkar et al. 2019 "
    "(A Study of BFLOAT16 for Deep Learning Training)"
)
_MICIKEVICIUS: Final = (
    "16-bit products: float16 matched float32 in Micikevicius et al. 2018 (Mixed Precision "
    "Training); its range ends at 65,504"
)
_ZAMIRAI: Final = (
    "updates smaller than half a bfloat16 step are lost: Zamirai et al. 2020 (Revisiting BFloat16 "
    "Training) found models that stop learning without Kahan or stochastic rounding"
)
_INT8: Final = (
    "8-bit weights and activations, outliers in 16 bit: no loss of perplexity up to 175B in "
    "Dettmers et al. 2022 (LLM.int8())"
)
_NF4: Final = (
    "4-bit weights: NF4 matched 16 bit on MMLU after fine-tuning in Dettmers et al. 2023 (QLoRA); "
    "without it zero-shot accuracy falls by about a point (Dettmers and Zettlemoyer 2023)"
)
_FP4: Final = "4-bit weights: FP4 lies about a point of MMLU below NF4 in Dettmers et al. 2023"

_BITS: Final = {"int8": 8.0, "nf4": 4.5, "fp4": 4.5, "nf4-double": 4.127, "fp4-double": 4.127}
"""Bits a weight with its scales (QLoRA, section 3: 0.5 and 0.127 bits of constants)."""


def scheme_name(quantization: Quantization | None) -> str:
    """``nf4-double``; "" for none."""
    if quantization is None:
        return ""
    return quantization.scheme + ("-double" if quantization.double_quant else "")


def _native(dtype: DType) -> Guard:
    """bfloat16 where every GPU computes in it, float16 where one does not."""

    def guard(scenario: Scenario) -> str | None:
        sm = lowest_sm(scenario)
        if dtype is BFLOAT16 and sm < 80:
            return f"sm_{sm} has no bfloat16: it is emulated, float16 is native"
        if dtype is FLOAT16 and sm >= 80:
            return "bfloat16 takes the same bytes and has float32's range"
        return None

    return guard


def in_range(scenario: Scenario) -> str | None:
    """Against float16 where the model leaves its range."""
    kind = model_type(scenario)
    return f"{kind}'s activations overflow float16" if kind in OVERFLOWS else None


def _shorter(dtype: DType) -> Guard:
    """From float32; to float16 from bfloat16 too, which such a GPU only emulates."""

    def guard(scenario: Scenario) -> str | None:
        now = dtype_of(scenario)
        if now is FLOAT32 or (dtype is FLOAT16 and now is BFLOAT16):
            return None
        return f"the weights are {now.name} already"

    return guard


def _frozen(scenario: Scenario) -> str | None:
    training = scenario.workload.training
    if training is None or training.method != "full":
        return None
    return "trained weights in 16 bit are another matter: pure_bf16"


def _dtype(dtype: DType, reason: str) -> Change:
    return Change(
        id=f"dtype={dtype.name}",
        setting="dtype",
        title=f"Load the weights in {dtype.name}",
        apply=guarded(
            lambda scenario: with_loading(scenario, dtype=dtype),
            on_transformers, _native(dtype), _shorter(dtype), _frozen,
            *((in_range,) if dtype is FLOAT16 else ()),
        ),
        quality=Quality.SLIGHT,
        quality_reason=reason,
        opens=True,
    )  # fmt: skip


def _pure_bf16(scenario: Scenario) -> Scenario:
    return with_training(with_loading(scenario, dtype=BFLOAT16), bf16=False, fp16=False)


def _in_float32(scenario: Scenario) -> str | None:
    now = dtype_of(scenario)
    return None if now is FLOAT32 else f"the weights are {now.name} already"


def _quantizable(scheme: str) -> Guard:
    """Not stored quantised already, not trained, not smaller already, and with kernels for it."""

    def guard(scenario: Scenario) -> str | None:
        model, workload = scenario.model, scenario.workload
        if model.quantization is not None:
            return f"the checkpoint is stored quantised ({model.quantization.method})"
        if workload.training is not None and workload.training.method == "full":
            return "quantised weights cannot be trained themselves: LoRA first"
        if scheme == "int8" and lowest_sm(scenario) < 75:
            return "LLM.int8 needs compute capability 7.5"
        if workload.loading.strategy in ("tp", "zero3", "fsdp"):
            return f"bitsandbytes' weights are not split by {workload.loading.strategy} here"
        now = scheme_name(workload.loading.quantization)
        if now and _BITS[scheme] >= _BITS[now]:
            return f"the weights are {now}, which takes no more"
        return None

    return guard


def _quantize(scheme: str) -> Edit:
    """Keeps the modules that are left out; 4 bit computes in the GPU's 16-bit type.

    Training a LoRA adapter on 4 bits is what is called QLoRA.
    """
    kind, _, double = scheme.partition("-")

    def edit(scenario: Scenario) -> Scenario:
        now = scenario.workload.loading.quantization
        compute = now.compute_dtype if now is not None else None
        quantization = Quantization(
            scheme=kind,  # type: ignore[arg-type]  # one of _BITS
            double_quant=bool(double),
            compute_dtype=None if kind == "int8" else compute or half_of(scenario),
            skip_modules=now.skip_modules if now is not None else None,
        )
        changed = with_loading(scenario, quantization=quantization)
        if scenario.workload.training is None:
            return changed
        return with_training(changed, method="lora" if kind == "int8" else "qlora")

    return edit


def _quantized(scheme: str, title: str, reason: str, dominated_by: str = "") -> Change:
    return Change(
        id=f"quantize={scheme}",
        setting="quantize",
        title=title,
        apply=guarded(_quantize(scheme), on_transformers, _quantizable(scheme), with_bitsandbytes),
        quality=Quality.SLIGHT,
        quality_reason=reason,
        dominated_by=dominated_by,
        opens=True,
    )


def _computes_in_float32(scenario: Scenario) -> str | None:
    quantization = scenario.workload.loading.quantization
    if quantization is None or quantization.scheme == "int8":
        return "the weights are not quantised to 4 bit on loading"
    if quantization.compute_dtype not in (None, FLOAT32):
        return f"products are in {quantization.compute_dtype.name} already"
    return None


def _compute_in(dtype: DType) -> Edit:
    def edit(scenario: Scenario) -> Scenario:
        quantization = scenario.workload.loading.quantization
        if quantization is None:
            raise LookupError("nothing is quantised")
        return with_loading(scenario, quantization=replace(quantization, compute_dtype=dtype))

    return edit


def _compute(dtype: DType) -> Change:
    """The library's default is float32: weights unpack to four bytes, products run in float32."""
    return Change(
        id=f"bnb_4bit_compute_dtype={dtype.name}",
        setting="bnb_4bit_compute_dtype",
        title=f"Compute in {dtype.name} from the 4-bit weights (the default is float32)",
        apply=guarded(
            _compute_in(dtype), _computes_in_float32, _native(dtype),
            *((in_range,) if dtype is FLOAT16 else ()),
        ),
    )  # fmt: skip


COMPUTE: Final = tuple(map(_compute, (BFLOAT16, FLOAT16)))
DTYPES: Final = (
    _dtype(BFLOAT16, _KALAMKAR),
    _dtype(FLOAT16, _MICIKEVICIUS),
    Change(
        id="pure_bf16",
        setting="dtype",
        title="Train in bfloat16 alone: weights, gradients and optimizer states",
        apply=guarded(_pure_bf16, trains, on_transformers, full, _native(BFLOAT16), _in_float32),
        quality=Quality.REAL,
        quality_reason=_ZAMIRAI,
        opens=True,
    ),
)
QUANTIZATIONS: Final = (
    _quantized("int8", "Load the weights in 8 bit (LLM.int8)", _INT8),
    _quantized("nf4", "Load the weights in 4 bit (NF4)", _NF4),
    _quantized("nf4-double", "Load the weights in 4 bit, scales quantised too (NF4)", _NF4),
    _quantized("fp4", "Load the weights in 4 bit (FP4)", _FP4, "quantize=nf4"),
    _quantized(
        "fp4-double", "Load the weights in 4 bit, scales too (FP4)", _FP4, "quantize=nf4-double"
    ),
)
