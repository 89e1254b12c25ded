"""PEFT: ``LoraConfig`` or another method's config, and ``prepare_model_for_kbit_training``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from willfit.changes.current import dtype_of
from willfit.dtypes import FLOAT16, FLOAT32, DType
from willfit.emitting.call import Call, Keywords
from willfit.emitting.loading import auto_class
from willfit.emitting.versions import require
from willfit.errors import InputError, WillfitError
from willfit.formulas.training.lora import build_adapter
from willfit.formulas.training.settings import checkpointing_of
from willfit.scenario import Lora, Scenario

TASK_TYPES: Final = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
}
"""PEFT's task by auto class; for another PEFT takes none."""
HEADS: Final = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""Tasks whose head PEFT trains beside the adapter without being asked (peft_model.py)."""
_NOT_SETTINGS: Final = (
    "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "peft_version", "megatron_config", "megatron_core",
)  # fmt: skip


def adapter_call(scenario: Scenario) -> Call | None:
    """The config of the scenario's adapter; None where there is none."""
    workload = scenario.workload
    training, inference = workload.training, workload.inference
    if training is not None and training.method != "full" and training.adapter_config is not None:
        return _other_method(training.adapter_config)
    lora = training.lora_config if training is not None else None
    if lora is not None:
        return _lora(scenario, lora)
    if inference is not None and inference.lora is not None:
        return _lora(scenario, inference.lora)
    return None


def _lora(scenario: Scenario, lora: Lora) -> Call:
    keywords = Keywords()
    keywords.set("r", lora.r, "rank")
    keywords.set("lora_alpha", 2 * lora.r, "scale 2; no memory depends on it")
    if lora.dropout:
        keywords.set("lora_dropout", lora.dropout)
    targets = _targets(scenario, lora)
    if targets is not None:
        keywords.set("target_modules", targets)
    if lora.target_modules and "all-linear" in lora.target_modules:
        require(scenario.stack, "all-linear")
    if lora.use_dora:
        require(scenario.stack, "use_dora")
        keywords.set("use_dora", True, "a magnitude an output beside the rank")
    if lora.modules_to_save:
        keywords.set("modules_to_save", list(lora.modules_to_save), "trained whole")
    task = TASK_TYPES.get(auto_class(scenario))
    if task is not None:
        reason = "the head is trained too" if task in HEADS else ""
        keywords.set("task_type", task, reason)
    return keywords.call("peft", "LoraConfig")


def _targets(scenario: Scenario, lora: Lora) -> str | list[str] | None:
    """Names as given, or PEFT's defaults spelled out: releases differ in them."""
    if lora.target_modules is not None:
        if lora.target_modules == ("all-linear",):
            return "all-linear"
        return list(lora.target_modules)
    try:
        adapter, _ = build_adapter(scenario.model, lora)
    except WillfitError:
        return None
    return list(dict.fromkeys(target.role for target in adapter.targets))


def _other_method(config: Mapping[str, Any]) -> Call:
    """``get_peft_config`` of an ``adapter_config.json``, without what only describes the file."""
    settings = {key: value for key, value in config.items() if key not in _NOT_SETTINGS}
    settings["peft_type"] = str(config.get("peft_type", "")).upper()
    return Call(library="peft", name="get_peft_config", arguments={"config_dict": settings})


def trainable_dtype(scenario: Scenario) -> DType | None:
    """Type that what trains is cast to after the adapter is there; None leaves PEFT's choice.

    PEFT makes adapters float32, and leaves a trained head in the base's float16, whose gradients
    the scaler of fp16 training refuses (torch.amp: 'Attempting to unscale FP16 gradients').
    """
    lora, training = _lora_of(scenario), scenario.workload.training
    if lora is not None and lora.dtype is not None and lora.dtype is not FLOAT32:
        if training is not None and training.fp16 and lora.dtype is FLOAT16:
            raise InputError(
                "fp16 mixed precision cannot train float16 adapters: leave their dtype out"
            )
        return lora.dtype
    if training is None or not training.fp16 or dtype_of(scenario) is not FLOAT16:
        return None
    head = TASK_TYPES.get(auto_class(scenario)) in HEADS
    return FLOAT32 if lora is not None and (head or lora.modules_to_save) else None


def _lora_of(scenario: Scenario) -> Lora | None:
    training, inference = scenario.workload.training, scenario.workload.inference
    if training is not None:
        return training.lora_config
    return inference.lora if inference is not None else None


def prepare_call(scenario: Scenario) -> Call | None:
    """``prepare_model_for_kbit_training`` only where the scenario says so.

    It makes all that is not quantised float32, embeddings and head included (peft/utils/other.py).
    """
    training = scenario.workload.training
    if training is None or not training.prepare_kbit:
        return None
    keywords = Keywords()
    checkpointing = checkpointing_of(training)
    keywords.set("use_gradient_checkpointing", checkpointing)
    if checkpointing:
        keywords.set(
            "gradient_checkpointing_kwargs", {"use_reentrant": bool(training.use_reentrant)}
        )
    return keywords.call("peft", "prepare_model_for_kbit_training")
