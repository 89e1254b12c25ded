"""Tiny checkpoints of real classes: random weights in safetensors, and a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOCAB = 64


def tiny(folder: Path, family: str, dtype: str = "bfloat16") -> Path:
    """A folder with a model of that family, as a user would have downloaded it."""
    import torch
    import transformers

    path = folder / f"{family}-{dtype}"
    if path.exists():
        return path
    torch.manual_seed(0)
    name, config = CONFIGS[family]
    cls: Any = getattr(transformers, name)
    model = cls(cls.config_class(**config, dtype=dtype))
    model.to(getattr(torch, dtype)).save_pretrained(path)
    _tokenizer().save_pretrained(path)
    return path


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


_IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
_LLAMA_LIKE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": VOCAB,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, **_IDS,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _LLAMA_LIKE),
    "gemma2": ("Gemma2ForCausalLM", {**_LLAMA_LIKE, "head_dim": 16, "sliding_window": 32}),
    "opt": ("OPTForCausalLM", {
        "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": VOCAB, "word_embed_proj_dim": 64, "max_position_embeddings": 128, **_IDS,
    }),
    "bloom": ("BloomForCausalLM", {
        "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCAB, **_IDS,
    }),
    "bert": ("BertForMaskedLM", {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": VOCAB, "max_position_embeddings": 128,
    }),
    "whisper": ("WhisperForConditionalGeneration", {
        "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
        "vocab_size": VOCAB, "num_mel_bins": 8, "max_source_positions": 20,
        "max_target_positions": 64, "decoder_start_token_id": 1, **_IDS,
    }),
    "vit": ("ViTForImageClassification", {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 16, "patch_size": 4,
    }),
    "t5": ("T5ForConditionalGeneration", {
        "d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4,
        "vocab_size": VOCAB, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
    }),
}  # fmt: skip
