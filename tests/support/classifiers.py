"""Tiny random checkpoints for whole runs: classifiers, a causal LM, encoders, trained adapters.

Each is a folder as `save_pretrained` writes it, with a byte-pair tokenizer that was trained on a
few sentences: tokens of several letters, so that where a text is cut matters. Weights are ten times
larger than transformers' own start, so that no result is lost in rounding.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VOCABULARY = 384
PAD, BOS, EOS, MASK = range(4)
MAX_LENGTH = 256
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_LENGTH,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "initializer_range": 0.2,
}
_ENCODER: dict[str, Any] = {
    key: value for key, value in _SMALL.items()
    if key not in ("num_key_value_heads", "bos_token_id", "eos_token_id")
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma2": {**_SMALL, "head_dim": 16, "pad_token_id": PAD, "sliding_window": 32},
    "llama": {**_SMALL, "pad_token_id": None},
    "bert": {**_ENCODER, "pad_token_id": PAD},
    "gpt2": {
        "vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH,
        "bos_token_id": BOS, "eos_token_id": EOS, "initializer_range": 0.2,
    },
    "t5": {
        "vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2,
        "num_decoder_layers": 2, "num_heads": 4, "pad_token_id": PAD, "eos_token_id": EOS,
        "decoder_start_token_id": PAD,
    },
}  # fmt: skip
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}</{{ m['role'] }}>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = (
    "the", "answer", "is", "both", "tokens", "of", "a", "long", "question", "about", "memory",
    "and", "quick", "brown", "fox",
)  # fmt: skip


def sentences(count: int, seed: int = 0, *, longest: int = 24) -> list[str]:
    """Texts of 1 to ``longest`` words, most of them short."""
    dice = random.Random(seed)
    sizes = (1 + int((longest - 1) * dice.random() ** 2) for _ in range(count))
    return [" ".join(dice.choices(WORDS, k=size)) for size in sizes]


def classifier(family: str, parent: Path, *, labels: int = 3, dtype: str = "float32") -> Path:
    """A sequence classifier; Llama's, as Llama-3's, knows no padding token."""
    return _saved(family, parent, "AutoModelForSequenceClassification", dtype, labels)


def causal_lm(family: str, parent: Path, *, dtype: str = "float32") -> Path:
    """A causal language model."""
    return _saved(family, parent, "AutoModelForCausalLM", dtype, None)


def encoder(family: str, parent: Path, *, dtype: str = "float32") -> Path:
    """A model without a head."""
    return _saved(family, parent, "AutoModel", dtype, None)


def _saved(family: str, parent: Path, auto: str, dtype: str, labels: int | None) -> Path:
    import torch
    import transformers

    folder = parent / f"{family}-{auto.removeprefix('AutoModel') or 'plain'}-{labels}-{dtype}"
    if folder.is_dir():
        return folder
    torch.manual_seed(len(family) + (labels or 0))
    more = {} if labels is None else {"num_labels": labels}
    config = transformers.AutoConfig.for_model(family, **CONFIGS[family], **more)
    model = getattr(transformers, auto).from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    write_tokenizer(folder, encoder=family == "bert", pads=family != "llama")
    return folder


def write_tokenizer(folder: Path, *, encoder: bool = False, pads: bool = True) -> None:
    """BOS before a text, an encoder's also EOS behind it; ``pads``: whether there is padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<pad>", "<s>", "</s>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(sentences(200), trainer)
    single = "<s> $A </s>" if encoder else "<s> $A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
        "model_max_length": MAX_LENGTH,
        "chat_template": CHAT_TEMPLATE,
        **({"pad_token": "<pad>"} if pads else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def adapter(
    base: Path,
    task_type: str | None,
    parent: Path,
    *,
    labels: int = 3,
    modules_to_save: Sequence[str] | None = ("score",),
    **config: Any,
) -> Path:
    """A LoRA adapter with random weights, none of them zero, and with a head of its own."""
    import peft
    import torch
    import transformers

    folder = parent / f"adapter-{base.name}-{task_type}"
    auto = {"SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM"}
    more = {"num_labels": labels} if task_type == "SEQ_CLS" else {}
    loader = getattr(transformers, auto.get(str(task_type), "AutoModel"))
    model = loader.from_pretrained(base, **more)
    lora = peft.LoraConfig(
        r=4, lora_alpha=16, task_type=task_type,
        modules_to_save=list(modules_to_save) if modules_to_save else None,
        **{"target_modules": ["q_proj", "v_proj"], **config},
    )  # fmt: skip
    adapted = peft.get_peft_model(model, lora)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3 if "lora" in name else 0.5)
    adapted.save_pretrained(str(folder))
    return folder
