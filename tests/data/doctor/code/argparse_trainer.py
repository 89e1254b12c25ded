import argparse
import os

os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"

import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base_model", type=str, default="meta-llama/Llama-2-7b-hf")
    parser.add_argument("--data", required=True)
    parser.add_argument("--bs", type=int, default=2)
    parser.add_argument("--grad_accum", type=int, default=16)
    parser.add_argument("--cutoff", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    return parser.parse_args()


def load_model(args):
    model = AutoModelForCausalLM.from_pretrained(
        args.base_model, torch_dtype=torch.bfloat16, trust_remote_code=False
    )
    config = LoraConfig(
        r=args.rank,
        lora_alpha=2 * args.rank,
        target_modules=["q_proj", "v_proj"],
        lora_dropout=0.05,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    model.print_trainable_parameters()
    return model


def main():
    args = parse()
    tokenizer = AutoTokenizer.from_pretrained(args.base_model)
    tokenizer.pad_token = tokenizer.eos_token
    model = load_model(args)
    data = load_dataset("json", data_files=args.data)["train"]

    def tokenize(row):
        return tokenizer(row["text"], truncation=True, max_length=args.cutoff)

    data = data.map(tokenize, remove_columns=data.column_names)
    trainer = Trainer(
        model=model,
        train_dataset=data,
        args=TrainingArguments(
            per_device_train_batch_size=args.bs,
            gradient_accumulation_steps=args.grad_accum,
            warmup_steps=100,
            max_steps=2000,
            learning_rate=3e-4,
            bf16=True,
            optim="adamw_torch",
            output_dir="lora-out",
        ),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    model.config.use_cache = False
    trainer.train()
    model.save_pretrained("lora-out")


if __name__ == "__main__":
    main()
