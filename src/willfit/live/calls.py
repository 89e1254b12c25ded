"""The calls that a scenario means, as plain data: what is loaded by which class and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from willfit.scenario import Lora, Quantization, Scenario
from willfit.scenario.workload import SdpaKernel

_AUTO: Final[tuple[tuple[str, str], ...]] = (
    ("ForCausalLM", "AutoModelForCausalLM"),
    ("LMHeadModel", "AutoModelForCausalLM"),
    ("ForSequenceClassification", "AutoModelForSequenceClassification"),
    ("ForTokenClassification", "AutoModelForTokenClassification"),
    ("ForMaskedLM", "AutoModelForMaskedLM"),
    ("ForPreTraining", "AutoModelForPreTraining"),
)
"""Auto class by the ending of the class that the config declares; any other is named itself."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Arguments by call; types are `DType`, a quantisation is the fields of its configuration."""

    auto_class: str
    from_pretrained: Mapping[str, Any]
    lora: Mapping[str, Any] = field(default_factory=dict)
    sdpa_kernel: SdpaKernel | None = None


def calls_of(scenario: Scenario) -> Calls:
    """The calls that make this scenario's model."""
    loading, model = scenario.workload.loading, scenario.model
    work = scenario.workload.inference or scenario.workload.training
    arguments: dict[str, Any] = {}
    if loading.dtype is not None:
        new = scenario.stack.at_least("transformers", "4.56")
        arguments["dtype" if new else "torch_dtype"] = loading.dtype
    if loading.quantization is not None and model.quantization is None:
        arguments["quantization_config"] = quantization_fields(loading.quantization)
    if work is not None and work.attn is not None:
        arguments["attn_implementation"] = work.attn
    arguments.update(_placement(scenario))
    if loading.num_labels is not None:
        arguments["num_labels"] = loading.num_labels
    if loading.trust_remote_code:
        arguments["trust_remote_code"] = True
    lora = work.lora if work is not None else None
    return Calls(
        auto_class=loading.auto_class or auto_class_of(model.model_class),
        from_pretrained=arguments,
        lora=lora_fields(lora, scenario) if lora is not None else {},
        sdpa_kernel=work.sdpa_kernel if work is not None else None,
    )


def auto_class_of(model_class: str) -> str:
    """The auto class that builds this class."""
    return next((auto for end, auto in _AUTO if model_class.endswith(end)), model_class)


def _placement(scenario: Scenario) -> dict[str, Any]:
    """One GPU is named, several are left to ``device_map="auto"``."""
    machine, max_memory = scenario.machine, scenario.workload.loading.max_memory
    if machine is None:
        return {}
    if len(machine.gpus) == 1 and max_memory is None:
        return {"device_map": {"": 0}}
    arguments: dict[str, Any] = {"device_map": "auto"}
    if max_memory is not None:
        arguments["max_memory"] = dict(max_memory)
    return arguments


def quantization_fields(quantization: Quantization) -> dict[str, Any]:
    """Fields of ``BitsAndBytesConfig``; 8 bit has none of the ``bnb_4bit_`` ones."""
    fields: dict[str, Any] = {}
    if quantization.scheme == "int8":
        fields["load_in_8bit"] = True
    else:
        fields["load_in_4bit"] = True
        fields["bnb_4bit_quant_type"] = quantization.scheme
        if quantization.double_quant:
            fields["bnb_4bit_use_double_quant"] = True
        if quantization.compute_dtype is not None:
            fields["bnb_4bit_compute_dtype"] = quantization.compute_dtype
    if quantization.skip_modules is not None:
        fields["llm_int8_skip_modules"] = list(quantization.skip_modules)
    return fields


def lora_fields(lora: Lora, scenario: Scenario) -> dict[str, Any]:
    """Fields of ``LoraConfig`` that differ from its defaults, and its task."""
    task = _TASK.get(auto_class_of(scenario.model.model_class))
    fields: dict[str, Any] = {"r": lora.r}
    if lora.target_modules is not None:
        alone = lora.target_modules == ("all-linear",)
        fields["target_modules"] = "all-linear" if alone else list(lora.target_modules)
    if lora.dropout:
        fields["lora_dropout"] = lora.dropout
    if lora.modules_to_save:
        fields["modules_to_save"] = list(lora.modules_to_save)
    if lora.use_dora:
        fields["use_dora"] = True
    if task is not None:
        fields["task_type"] = task
    return fields


_TASK: Final[Mapping[str, str]] = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
}
