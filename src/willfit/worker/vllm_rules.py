"""What vLLM cannot do, told before it starts, each in a sentence with its source.

Read in the source of vLLM 0.33.0 (commit 4ba787ec9); none of it was run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from willfit.errors import InputError
from willfit.runner.protocol import Job
from willfit.worker.checkpoint import adapter_config_of, config_of, require_head, trained_parts

NOT_FLOAT16: Final = ("gemma2", "gemma3", "gemma3_text", "glm4")
"""Model types refused in float16 (``vllm/config/model.py``, ``_FLOAT16_NOT_SUPPORTED_MODELS``)."""
RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that LoRA's buffers may have (``vllm/config/lora.py``, ``MaxLoRARanks``)."""
HEADS: Final = ("score", "classifier")
"""What ``modules_to_save`` may name (``vllm/lora/peft_helper.py``)."""
PLAIN_INITS: Final = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of ``init_lora_weights`` that leave the base model's weights alone (the same)."""
GENERATION: Final[Mapping[str, str]] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "min_new_tokens": "min_tokens",
    "stop_strings": "stop",
    "eos_token_id": "stop_token_ids",
}
"""Arguments of transformers' ``generate`` by their name in vLLM's ``SamplingParams``."""
NO_EFFECT: Final[Mapping[str, Any]] = {"do_sample": None, "num_beams": 1, "use_cache": True}
"""Arguments that are told otherwise, or not at all; with another value they are refused."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the rules look at."""

    job: Job
    config: Mapping[str, Any]
    """The model's ``config.json``."""
    adapter: Mapping[str, Any]
    """The adapter's ``adapter_config.json``; empty without one."""
    capabilities: Sequence[int]
    """Compute capability of each GPU, such as 75."""

    @property
    def dtype(self) -> str:
        """As the stage has it."""
        return str(self.job.stage.get("dtype") or "auto")

    @property
    def is_old(self) -> bool:
        """Whether a GPU has no bfloat16."""
        return any(capability < 80 for capability in self.capabilities)


def require_vllm_can(job: Job, capabilities: Sequence[int]) -> None:
    """Raise `InputError` on the first thing that vLLM would refuse, or do otherwise."""
    asked = Asked(
        job=job, config=config_of(job), adapter=adapter_config_of(job), capabilities=capabilities
    )
    for rule in RULES:
        why = rule(asked)
        if why is not None:
            raise InputError(f"stage {job.name} cannot run in vLLM: {why}")
    if job.stage["task"] == "classify":
        trained = trained_parts(job)
        lacks = trained is not None and not any(head in trained for head in HEADS)
        require_head(job, ["score"] if lacks else [])


def lora_rank(config: Mapping[str, Any]) -> int:
    """The largest rank of an adapter, its exceptions by module with it."""
    return max([int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values())])


def _task(asked: Asked) -> str | None:
    if asked.job.stage["task"] in ("classify", "generate", "embed"):
        return None
    return "it has classify, generate and embed: leave engine out for choose"


def _gpu(asked: Asked) -> str | None:
    if asked.job.gpus > 0 and asked.capabilities:
        return None
    return "it runs on NVIDIA GPUs and the stage has none: leave engine out"


def _quantize(asked: Asked) -> str | None:
    packed = (asked.config.get("quantization_config") or {}).get("quant_method")
    if asked.job.stage.get("quantize") is None and packed != "bitsandbytes":
        return None
    return (
        "bitsandbytes left it with 0.28 (a plugin has it): leave engine out, which packs weights "
        "with bitsandbytes, or name a checkpoint in AWQ, GPTQ or FP8"
    )


def _attn(asked: Asked) -> str | None:
    if asked.job.stage.get("attn") is None:
        return None
    return "attn chooses transformers' attention and vLLM has its own: leave attn out"


def _float16(asked: Asked) -> str | None:
    kind = asked.config.get("model_type")
    if kind not in NOT_FLOAT16 or not (
        asked.dtype == "float16" or (asked.is_old and asked.dtype != "float32")
    ):
        return None
    return (
        f"it refuses {kind} in float16 (numerical instability), and GPUs before compute capability "
        "8.0, such as T4, have no bfloat16: leave engine out, or take dtype: bfloat16 on a newer "
        "GPU"
    )


def _bfloat16(asked: Asked) -> str | None:
    if asked.dtype != "bfloat16" or not asked.is_old:
        return None
    return "bfloat16 needs compute capability 8.0, and a GPU here has less: write dtype: float16"


def _adapter_dtype(asked: Asked) -> str | None:
    if not asked.adapter or asked.dtype != "float32":
        return None
    return "its LoRA kernels take 16-bit inputs alone: write dtype: float16 or bfloat16"


def _adapter(asked: Asked) -> str | None:
    """As ``PEFTHelper.validate_legal`` has it."""
    config = asked.adapter
    if not config:
        return None
    if str(config.get("peft_type")) != "LORA":
        return f"its adapters are LoRA and this is {config.get('peft_type')}: leave engine out"
    odd = [name for name in config.get("modules_to_save") or () if name not in HEADS]
    init = config.get("init_lora_weights", True)
    refused = {
        "DoRA": config.get("use_dora"),
        "lora_bias": config.get("lora_bias"),
        f"bias: {config.get('bias')}": config.get("bias", "none") != "none",
        f"modules_to_save: {', '.join(odd)}": odd,
        f"init_lora_weights: {init}": isinstance(init, str) and init.lower() not in PLAIN_INITS,
        "aLoRA": config.get("alora_invocation_tokens"),
        "layer_replication": config.get("layer_replication"),
        "BD-LoRA": config.get("use_bdlora"),
        "QALoRA": config.get("use_qalora"),
        f"rank {lora_rank(config)}": lora_rank(config) > RANKS[-1],
    }
    names = [name for name, is_there in refused.items() if is_there]
    return f"its LoRA has no {names[0]}: leave engine out" if names else None


def _generation(asked: Asked) -> str | None:
    for name, value in dict(asked.job.stage.get("generation") or {}).items():
        plain = name in NO_EFFECT and NO_EFFECT[name] in (None, value)
        if name not in GENERATION and not plain:
            return (
                f"generation.{name} is no argument of its sampling: leave it out, or leave engine "
                f"out (it takes {', '.join(GENERATION)})"
            )
    return None


RULES: Final[tuple[Callable[[Asked], str | None], ...]] = (
    _task, _gpu, _quantize, _attn, _float16, _bfloat16, _adapter_dtype, _adapter, _generation,
)  # fmt: skip
