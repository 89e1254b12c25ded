"""DPO with LoRA: the reference is the same model with its adapter switched off."""
from dataclasses import dataclass, field

import torch
from datasets import load_dataset
from peft import LoraConfig, TaskType
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser
from trl import DPOConfig, DPOTrainer


@dataclass
class Script:
    model_name: str = field(default="Qwen/Qwen2.5-1.5B-Instruct")
    pairs: str = field(default="pairs.jsonl")
    lora_r: int = field(default=32)


def main():
    parser = HfArgumentParser((Script, DPOConfig))
    script, args = parser.parse_args_into_dataclasses()
    args.gradient_checkpointing_kwargs = {"use_reentrant": False}

    dataset = load_dataset("json", data_files=script.pairs, split="train")
    dataset = dataset.filter(lambda r: r["chosen"] != r["rejected"])
    dataset = dataset.train_test_split(test_size=0.05, seed=7)

    tokenizer = AutoTokenizer.from_pretrained(script.model_name)
    model_kwargs = dict(dtype=torch.bfloat16, attn_implementation="sdpa")
    if torch.cuda.get_device_capability()[0] >= 8:
        model_kwargs["attn_implementation"] = "flash_attention_2"
    model = AutoModelForCausalLM.from_pretrained(script.model_name, **model_kwargs)

    trainer = DPOTrainer(
        model,
        ref_model=None,
        args=args,
        train_dataset=dataset["train"],
        eval_dataset=dataset["test"],
        processing_class=tokenizer,
        peft_config=LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=script.lora_r,
            lora_alpha=2 * script.lora_r,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        ),
    )
    result = trainer.train()
    trainer.log_metrics("train", result.metrics)
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    trainer.save_model(args.output_dir)


if __name__ == "__main__":
    main()
