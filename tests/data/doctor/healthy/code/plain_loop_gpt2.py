"""A plain PyTorch loop with gradient accumulation, autocast and a validation pass."""
import math
import time

import torch
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cuda.matmul.allow_tf32 = True

tokenizer = AutoTokenizer.from_pretrained("gpt2")
tokenizer.pad_token = tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained("gpt2")
model.to(device)
model.gradient_checkpointing_enable()
model.config.use_cache = False

texts = [line.strip() for line in open("poems.txt") if line.strip()]
cut = int(0.95 * len(texts))


def collate(batch):
    enc = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
    enc["labels"] = enc["input_ids"].masked_fill(enc["attention_mask"] == 0, -100)
    return enc


train_loader = DataLoader(texts[:cut], batch_size=8, shuffle=True, collate_fn=collate)
valid_loader = DataLoader(texts[cut:], batch_size=16, collate_fn=collate)

ACCUM, EPOCHS = 4, 3
optimizer = AdamW(model.parameters(), lr=3e-5, weight_decay=0.01)
steps = EPOCHS * math.ceil(len(train_loader) / ACCUM)
scheduler = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)


@torch.no_grad()
def evaluate():
    model.eval()
    total, count = 0.0, 0
    for batch in valid_loader:
        batch = {k: v.to(device) for k, v in batch.items()}
        loss = model(**batch).loss
        total += loss.item() * batch["input_ids"].size(0)
        count += batch["input_ids"].size(0)
    model.train()
    return total / count


losses = []
model.train()
for epoch in range(EPOCHS):
    started = time.time()
    running = 0.0
    for step, batch in enumerate(train_loader, 1):
        batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(**batch).loss / ACCUM
        loss.backward()
        running += loss.item() * ACCUM
        if step % ACCUM == 0 or step == len(train_loader):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
    losses.append(running / len(train_loader))
    val = evaluate()
    print(f"epoch {epoch} train {losses[-1]:.3f} val {val:.3f} ppl {math.exp(val):.1f} "
          f"{time.time() - started:.0f} s")
    torch.save(model.state_dict(), f"gpt2-poems-{epoch}.pt")
