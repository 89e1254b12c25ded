import torch
from accelerate import Accelerator
from bitsandbytes.optim import AdamW8bit
from datasets import load_from_disk
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, default_data_collator

config = {
    "model": "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
    "batch_size": 2,
    "grad_accum": 8,
    "lr": 1e-5,
}

accelerator = Accelerator(
    mixed_precision="bf16", gradient_accumulation_steps=config["grad_accum"]
)
model = AutoModelForCausalLM.from_pretrained(config["model"], attn_implementation="eager")
model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
optimizer = AdamW8bit(model.parameters(), lr=config["lr"])
loader = DataLoader(
    load_from_disk("packed-2048"),
    batch_size=config["batch_size"],
    shuffle=True,
    collate_fn=default_data_collator,
)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

for batch in loader:
    with accelerator.accumulate(model):
        loss = model(**batch).loss
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
