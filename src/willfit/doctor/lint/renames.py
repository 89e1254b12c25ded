"""Arguments that were renamed or removed, and what to write instead.

Which release takes which name is in the signatures; this is only the way from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RENAMES: Final[Mapping[str, str]] = {
    "evaluation_strategy": "eval_strategy",
    "tokenizer": "processing_class",
    "max_seq_length": "max_length",
    "use_liger_loss": "use_liger_kernel",
    "use_liger": "use_liger_kernel",
    "vllm_max_model_len": "vllm_max_model_length",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
    "use_auth_token": "token",
    "torch_dtype": "dtype",
    "warmup_ratio": "warmup_steps",
}
"""New names; one is proposed only where the release that is judged takes it.

Sources: transformers 5 and trl 1.x migration guides and the deprecation notes in the source of the
releases in signatures.json (`warmup_steps` takes a fraction since transformers 5).
"""

ADVICE: Final[Mapping[str, str]] = {
    "load_in_8bit": "quantization_config=BitsAndBytesConfig(load_in_8bit=True)",
    "load_in_4bit": (
        'quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
        "bnb_4bit_compute_dtype=torch.bfloat16)"
    ),
    "use_flash_attention_2": 'attn_implementation="flash_attention_2"',
    "gradient_checkpointing": "model.gradient_checkpointing_enable() after loading",
    "llm_int8_enable_fp32_cpu_offload": "put it into BitsAndBytesConfig(…)",
    "group_by_length": 'train_sampling_strategy="group_by_length"',
    "max_seq_len": "the tokenizer's max_length, or SFTConfig(max_length=…)",
    "max_seq_length": "the tokenizer's max_length, or SFTConfig(max_length=…)",
    "max_length": "the trainer's configuration takes it",
    "dataset_text_field": "SFTConfig(dataset_text_field=…)",
    "packing": "SFTConfig(packing=…)",
    "max_prompt_length": "shorten the prompts when the dataset is prepared",
    "use_logits_to_keep": "remove it: only the scores that count are computed anyway",
    "swap_space": "remove it: preempted requests are computed again",
    "max_seq_len_to_capture": "remove it: CUDA graphs are captured by batch size",
    "calculate_kv_scales": "remove it",
    "overwrite_output_dir": "remove it",
    "half_precision_backend": "remove it: bf16=True or fp16=True is enough",
    "fp16_backend": "remove it: bf16=True or fp16=True is enough",
    "fp16_opt_level": "remove it",
    "save_safetensors": "remove it: checkpoints are safetensors",
    "logging_dir": "remove it, or set TENSORBOARD_LOGGING_DIR",
    "device": 'device_map="cuda"',
    "device_ids": "device_map=…",
}
"""What to write where there is no new name."""
