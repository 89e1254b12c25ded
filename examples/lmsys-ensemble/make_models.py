"""Stand-ins for the real checkpoints: tiny random Gemma-2 and Llama classifiers with LoRA adapters.

    python make_models.py

Their answers mean nothing; everything else is as with the real ones: classes of transformers, an
adapter with a trained head, a tokenizer, safetensors.
"""

from __future__ import annotations

from pathlib import Path

import peft
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

HERE = Path(__file__).parent
SMALL = {
    "vocab_size": 384, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_labels": 3, "initializer_range": 0.2,
}  # fmt: skip


def main() -> None:
    for seed, family in enumerate(("gemma2", "llama")):
        folder = HERE / "models" / family
        if folder.is_dir():
            continue
        torch.manual_seed(seed)
        config = transformers.AutoConfig.for_model(family, **SMALL)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        model.save_pretrained(folder)
        write_tokenizer(folder)
        lora = peft.LoraConfig(
            task_type="SEQ_CLS", r=8, target_modules=["q_proj", "v_proj"],
            modules_to_save=["score"], init_lora_weights=False,
        )  # fmt: skip
        peft.get_peft_model(model, lora).save_pretrained(HERE / "models" / f"{family}-lora")
    print("models are in", HERE / "models")


def write_tokenizer(folder: Path) -> None:
    """One token a byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
