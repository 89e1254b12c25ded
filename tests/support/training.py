"""What one decoder layer keeps for backward: by the formulas, and by the real class."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from tests.support.meta_spec import meta_model, spec_of_model
from tests.support.recorder import Recorder

from willfit.dtypes import DTYPES
from willfit.formulas.training import training_phases
from willfit.formulas.weights import load_weights
from willfit.scenario import Loading, Lora, Stack, Training

BATCH, LENGTH = 4, 128
TOKENS = BATCH * LENGTH

SMALL: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}
WIDE: dict[str, Any] = {
    "hidden_size": 320,
    "intermediate_size": 640,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "vocab_size": 64,
}
UNGROUPED: dict[str, Any] = {**SMALL, "intermediate_size": 1024, "num_key_value_heads": None}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "llama wide": WIDE,
    "qwen2": SMALL,
    "qwen3": {**SMALL, "head_dim": 64},
    "gemma": {**SMALL, "head_dim": 64},
    "gemma2": {**SMALL, "head_dim": 64},
    "phi3": {**SMALL, "pad_token_id": 0},
    "mixtral": {**SMALL, "num_local_experts": 4, "sliding_window": None},
    "gpt2": {"n_embd": 256, "n_head": 4, "vocab_size": 64, "n_positions": 128},
    "gpt_neox": UNGROUPED,
    "opt": {
        "hidden_size": 256,
        "ffn_dim": 1024,
        "num_attention_heads": 4,
        "vocab_size": 64,
        "word_embed_proj_dim": 256,
        "max_position_embeddings": 128,
    },
    "bert": {**UNGROUPED, "is_decoder": True},
    "starcoder2": SMALL,
    **{
        name: {**UNGROUPED, "max_position_embeddings": 160}
        for name in ("roberta", "electra", "xlm-roberta")
    },
}
"""Dropouts are at their defaults: 0.1 in gpt2, opt (not on attention), bert and its kin."""


def built(name: str, layers: int, implementation: str = "sdpa") -> Any:
    """The real model on meta with so many layers."""
    config = {key: value for key, value in CONFIGS[name].items() if value is not None}
    count = "n_layer" if name == "gpt2" else "num_hidden_layers"
    model_type = name.split()[0]
    return meta_model(model_type, **{**config, count: layers}, attn_implementation=implementation)


def kept_by_class(
    name: str, kernel: str, *, dtype: str = "bfloat16", masked: bool = False,
    autocast: bool = False, lora: Lora | None = None, trained: bool = True,
) -> float:  # fmt: skip
    """Bytes per token that one more layer of the real class keeps after forward."""
    two, four = (
        _kept(name, layers, kernel, dtype, masked, autocast, lora, trained) for layers in (2, 4)
    )
    return (four - two) / 2 / TOKENS


def _kept(
    name: str, layers: int, kernel: str, dtype: str, masked: bool, autocast: bool,
    lora: Lora | None, trained: bool,
) -> int:  # fmt: skip
    model = built(name, layers, "eager" if kernel == "eager" else "sdpa")
    model = model.to(getattr(torch, dtype))
    if lora is not None:
        model = with_adapter(model, lora)
    elif not trained:
        model.requires_grad_(False)
    with Recorder(sdpa="flash" if kernel == "eager" else kernel) as recorder:
        model = recorder.place(model)
        if not trained or lora is not None:
            model.get_input_embeddings().register_forward_hook(
                lambda _module, _inputs, output: output.requires_grad_(True)
            )
        ids = torch.empty(BATCH, LENGTH, dtype=torch.long)
        mask = torch.ones(BATCH, LENGTH, dtype=torch.long) if masked else None
        before = recorder.live_bytes
        casting = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
        base = (model.base_model.model if lora is not None else model).base_model
        with casting:
            output = base(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        kept = recorder.mark("forward") - before
        del output
    return kept


def with_adapter(model: Any, lora: Lora) -> Any:
    """The model with PEFT's own adapters."""
    import peft

    targets = list(lora.target_modules or ())
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=lora.r,
            target_modules="all-linear" if targets == ["all-linear"] else targets,
            lora_dropout=lora.dropout,
            task_type="CAUSAL_LM",
        ),
    )


def kept_by_formula(
    name: str, kernel: str, *, dtype: str = "bfloat16", masked: bool = False,
    autocast: bool = False, lora: Lora | None = None,
) -> float:  # fmt: skip
    """The same by the formulas, from the activations at the peak of backward."""
    two, four = (
        _activations(name, layers, kernel, dtype, masked, autocast, lora) for layers in (2, 4)
    )
    return (four - two) / 2 / TOKENS


def _activations(
    name: str, layers: int, kernel: str, dtype: str, masked: bool, autocast: bool,
    lora: Lora | None,
) -> int:  # fmt: skip
    spec = spec_of_model(built(name, layers), DTYPES[dtype])
    training = Training(
        method="lora" if lora else "full",
        trainer="transformers",
        lora=lora,
        optimizer="sgd",
        micro_batch_size=BATCH,
        max_length=LENGTH,
        padded=masked,
        gradient_checkpointing=False,
        bf16=autocast,
        attn="eager" if kernel == "eager" else "sdpa",
        sdpa_kernel="math" if kernel == "math" else None,
    )
    weights = load_weights(spec, Loading(dtype=DTYPES[dtype]), Stack())
    phases = training_phases(spec, training, None, Stack(), weights)
    backward = next(phase for phase in phases.phases if phase.name == "backward")
    return backward.components["activations"]
