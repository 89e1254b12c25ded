import os

import torch
import torch.nn as nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset
from transformers import AutoConfig, AutoModel, AutoTokenizer


class CFG:
    apex = True
    model = "microsoft/deberta-v3-large"
    gradient_checkpointing = True
    batch_size = 4
    max_len = 1536
    encoder_lr = 1e-5
    max_grad_norm = 1000
    epochs = 4
    n_fold = 4


CFG.tokenizer = AutoTokenizer.from_pretrained(CFG.model)


class TrainDataset(Dataset):
    def __init__(self, cfg, df):
        self.cfg = cfg
        self.texts = df["full_text"].values

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, item):
        inputs = self.cfg.tokenizer.encode_plus(
            self.texts[item],
            return_tensors=None,
            add_special_tokens=True,
            max_length=CFG.max_len,
            pad_to_max_length=True,
            truncation=True,
        )
        return {k: torch.tensor(v) for k, v in inputs.items()}


class MeanPooling(nn.Module):
    def forward(self, last_hidden_state, attention_mask):
        mask = attention_mask.unsqueeze(-1).expand(last_hidden_state.size()).float()
        return (last_hidden_state * mask).sum(1) / mask.sum(1)


class CustomModel(nn.Module):
    def __init__(self, cfg, pretrained=False):
        super().__init__()
        self.cfg = cfg
        self.config = AutoConfig.from_pretrained(cfg.model, output_hidden_states=True)
        if pretrained:
            self.model = AutoModel.from_pretrained(cfg.model, config=self.config)
        else:
            self.model = AutoModel.from_config(self.config)
        if self.cfg.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.pool = MeanPooling()
        self.fc = nn.Linear(self.config.hidden_size, 6)

    def forward(self, inputs):
        outputs = self.model(**inputs)
        return self.fc(self.pool(outputs[0], inputs["attention_mask"]))


def train_fn(train_loader, model, criterion, optimizer, device):
    model.train()
    scaler = torch.cuda.amp.GradScaler(enabled=CFG.apex)
    for step, (inputs, labels) in enumerate(train_loader):
        inputs = {k: v.to(device) for k, v in inputs.items()}
        with torch.cuda.amp.autocast(enabled=CFG.apex):
            loss = criterion(model(inputs), labels.to(device))
        scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CFG.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


def train_loop(folds, fold):
    train_folds = folds[folds["fold"] != fold]
    train_loader = DataLoader(
        TrainDataset(CFG, train_folds), batch_size=CFG.batch_size, shuffle=True, drop_last=True
    )
    model = CustomModel(CFG, pretrained=True)
    model.to("cuda")
    optimizer = AdamW(model.parameters(), lr=CFG.encoder_lr)
    for epoch in range(CFG.epochs):
        train_fn(train_loader, model, nn.SmoothL1Loss(), optimizer, "cuda")
        torch.save(model.state_dict(), os.path.join("out", f"fold{fold}.pth"))
