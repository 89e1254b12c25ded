import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup


class CFG:
    model_name = "openai-community/gpt2-large"
    max_length = 1024
    batch_size = 8
    accum = 4
    lr = 3e-5
    epochs = 2
    clip = 1.0


device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
tokenizer = AutoTokenizer.from_pretrained(CFG.model_name)
tokenizer.pad_token = tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(CFG.model_name)
model.to(device)


def collate(texts):
    batch = tokenizer(
        texts, truncation=True, padding=True, max_length=CFG.max_length, return_tensors="pt"
    )
    batch["labels"] = batch["input_ids"].clone()
    return batch


texts = open("poems.txt").read().split("\n\n")
train_loader = DataLoader(texts, batch_size=CFG.batch_size, shuffle=True, collate_fn=collate)
valid_loader = DataLoader(texts[:100], batch_size=CFG.batch_size * 2, collate_fn=collate)

optimizer = torch.optim.AdamW(model.parameters(), lr=CFG.lr)
scaler = torch.cuda.amp.GradScaler()

for epoch in range(CFG.epochs):
    model.train()
    for step, batch in enumerate(tqdm(train_loader)):
        batch = {k: v.to(device) for k, v in batch.items()}
        with torch.cuda.amp.autocast():
            outputs = model(**batch)
            loss = outputs.loss / CFG.accum
        scaler.scale(loss).backward()
        if (step + 1) % CFG.accum == 0:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), CFG.clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
