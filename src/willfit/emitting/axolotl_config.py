"""``axolotl``: its YAML for a fine-tuning run."""

from __future__ import annotations

from typing import Any

import yaml

from willfit.emitting.adapters import adapter_call
from willfit.emitting.loading import CAUSAL, auto_class, load_call
from willfit.emitting.training import length_of, training_call
from willfit.errors import InputError
from willfit.formulas.training.settings import checkpointing_of
from willfit.scenario import Scenario, Training


def axolotl_yaml(scenario: Scenario) -> str:
    """Keys as in Axolotl's schemas (utils/schemas/peft.py, training.py, config.py)."""
    training = scenario.workload.training
    if training is None:
        raise InputError("axolotl trains and the scenario does not: add --train")
    if auto_class(scenario) != CAUSAL:
        raise InputError("axolotl is emitted for causal language models: use peft for this one")
    _refuse(training)
    load_call(scenario)  # refuses what cannot be loaded
    values: dict[str, Any] = {"base_model": scenario.model.id}
    values |= _quantised(scenario)
    values |= _adapter(scenario)
    values |= _run(scenario, training)
    values["datasets"] = [{"path": "data.jsonl", "ds_type": "json", "type": "completion"}]
    values |= {"output_dir": "out", "num_epochs": 1, "learning_rate": 2e-4, "val_set_size": 0}
    return yaml.safe_dump(values, sort_keys=False)


def _refuse(training: Training) -> None:
    for given, name in (
        (training.adapter_config is not None, "an adapter other than LoRA"),
        (bool(training.freeze), "freeze"),
        (training.sdpa_kernel is not None, "sdpa_kernel"),
        (training.prepare_kbit is False, "no preparation for k bits"),
    ):
        if given:
            raise InputError(f"axolotl has no setting for {name}: emit peft instead")


def _quantised(scenario: Scenario) -> dict[str, Any]:
    quantization = scenario.workload.loading.quantization
    if quantization is None:
        return {}
    if quantization.scheme == "int8":
        return {"load_in_8bit": True}
    kwargs: dict[str, Any] = {
        "bnb_4bit_quant_type": quantization.scheme,
        "bnb_4bit_use_double_quant": quantization.double_quant,
    }
    return {"load_in_4bit": True, "bnb_config_kwargs": kwargs}


def _adapter(scenario: Scenario) -> dict[str, Any]:
    call = adapter_call(scenario)
    if call is None:
        return {}
    quantization = scenario.workload.loading.quantization
    four_bit = quantization is not None and quantization.scheme != "int8"
    given = call.arguments
    targets = given.get("target_modules")
    linear = targets == "all-linear"
    named = {"lora_target_linear": True} if linear else {"lora_target_modules": targets}
    return {
        "adapter": "qlora" if four_bit else "lora",
        "lora_r": given["r"],
        "lora_alpha": given["lora_alpha"],
        "lora_dropout": given.get("lora_dropout", 0.0),
        **(named if targets is not None else {}),
        **(
            {"lora_modules_to_save": given["modules_to_save"]} if "modules_to_save" in given else {}
        ),
        **({"peft_use_dora": True} if given.get("use_dora") else {}),
    }


def _run(scenario: Scenario, training: Training) -> dict[str, Any]:
    given = training_call(scenario, "trl").arguments
    values: dict[str, Any] = {
        "sequence_len": length_of(scenario),
        "sample_packing": training.packing,
        "micro_batch_size": given["per_device_train_batch_size"],
        "gradient_accumulation_steps": given["gradient_accumulation_steps"],
        "optimizer": given["optim"],
        "max_grad_norm": given["max_grad_norm"],
        "bf16": given["bf16"],
        "fp16": given["fp16"],
        "gradient_checkpointing": checkpointing_of(training),
    }
    if checkpointing_of(training):
        values["gradient_checkpointing_kwargs"] = given["gradient_checkpointing_kwargs"]
    if training.offload_activations:
        values["activation_offloading"] = True
    if training.group_by_length:
        values["group_by_length"] = True
    if training.use_liger_kernel:
        values["plugins"] = ["axolotl.integrations.liger.LigerPlugin"]
        values["liger_fused_linear_cross_entropy"] = True
    attention = {"flash_attention_2": "flash_attention", "sdpa": "sdp_attention"}
    if training.attn in attention:
        values[attention[training.attn]] = True
    return values
