"""``accelerate``: a shell text that writes the config files and launches ``train.py``."""

from __future__ import annotations

import json
import shlex
from typing import Any

import yaml

from willfit.dtypes import BFLOAT16
from willfit.emitting.adapters import adapter_call
from willfit.emitting.code import said
from willfit.emitting.launch import environment, launch
from willfit.emitting.loading import load_call
from willfit.emitting.script import machine_words
from willfit.errors import InputError
from willfit.formulas.training.fsdp import is_second
from willfit.formulas.training.settings import autocast_of
from willfit.formulas.training.zero import STAGES
from willfit.scenario import Scenario, Training


def accelerate_text(scenario: Scenario) -> str:
    """``accelerate.yaml``, ``zero.json`` where DeepSpeed shards, and the command."""
    training = scenario.workload.training
    if training is None:
        raise InputError(
            "accelerate launches training here and the scenario has none: emit transformers, "
            "whose script says how it is started"
        )
    load_call(scenario)  # refuses what cannot be loaded
    stage = STAGES.get(launch(scenario).strategy)
    blocks = [f"# {said(scenario.model.id)}: launch{machine_words(scenario)}."]
    blocks += [f"export {k}={shlex.quote(v)}" for k, v in environment(scenario).items()]
    blocks.append(_file("accelerate.yaml", yaml.safe_dump(accelerate_config(scenario))))
    if stage is not None:
        blocks.append(_file("zero.json", json.dumps(deepspeed_config(stage), indent=2) + "\n"))
    blocks.append("accelerate launch --config_file accelerate.yaml train.py")
    return "\n\n".join(blocks) + "\n"


def _file(name: str, content: str) -> str:
    return f"cat > {name} << 'END'\n{content}END"


def accelerate_config(scenario: Scenario) -> dict[str, Any]:
    """The content of ``accelerate config``'s file for this machine."""
    training = scenario.workload.training
    assert training is not None
    how = launch(scenario)
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "NO" if how.num_processes == 1 else "MULTI_GPU",
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": _precision(training),
        "num_machines": 1,
        "num_processes": how.num_processes,
        "use_cpu": False,
    }
    if how.num_processes == 1:
        return config
    if how.strategy in STAGES:
        del config["mixed_precision"]  # accelerate wants it in DeepSpeed's file alone
        config["distributed_type"] = "DEEPSPEED"
        config["deepspeed_config"] = {
            "deepspeed_config_file": "zero.json",
            "zero3_init_flag": how.strategy == "zero3",
        }
    elif how.strategy == "fsdp":
        config |= {"distributed_type": "FSDP", "fsdp_config": _fsdp(scenario)}
    return config


def _precision(training: Training) -> str:
    autocast = autocast_of(training)
    if autocast is None:
        return "no"
    return "bf16" if autocast is BFLOAT16 else "fp16"


def _fsdp(scenario: Scenario) -> dict[str, Any]:
    """Weights, gradients and states sharded; version 1 where packed weights are."""
    shared: dict[str, Any] = {
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_cpu_ram_efficient_loading": True,
        "fsdp_offload_params": False,
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    }
    packed = scenario.workload.loading.quantization is not None
    if is_second(scenario.stack, packed=packed):
        return {**shared, "fsdp_version": 2, "fsdp_reshard_after_forward": True}
    return {
        **shared,
        "fsdp_sharding_strategy": "FULL_SHARD",
        "fsdp_sync_module_states": True,
        "fsdp_use_orig_params": adapter_call(scenario) is None,
    }


def deepspeed_config(stage: int) -> dict[str, Any]:
    """What DeepSpeed reads; "auto" is filled in by the Trainer from its own arguments."""
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        zero |= {
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return {
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }
