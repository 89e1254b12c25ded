"""Tiny random checkpoints with a real tokenizer, as folders that any release can load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SMALL: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _SMALL,
    "qwen2": _SMALL,
    "gemma2": {**_SMALL, "head_dim": 16},
    "bert": {k: v for k, v in _SMALL.items() if k not in ("num_key_value_heads", "bos_token_id", "eos_token_id")},
    "t5": {
        "vocab_size": 384, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2,
        "num_decoder_layers": 2, "num_heads": 4, "pad_token_id": 0, "eos_token_id": 2,
        "decoder_start_token_id": 0,
    },
}  # fmt: skip
_AUTO = {"bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}


def tiny_folder(model_type: str, parent: Path, dtype: str = "float32") -> Path:
    """A folder with config, weights and tokenizer of one family."""
    import torch
    import transformers

    folder = parent / model_type
    if folder.is_dir():
        return folder
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **CONFIGS[model_type])
    auto: Any = getattr(transformers, _AUTO.get(model_type, "AutoModelForCausalLM"))
    auto.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    """Bytes as tokens, in files whose form every release since 4.34 reads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<mask>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<mask>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "model_max_length": 256,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
