"""Two replicas in two threads; results are read inside the with, and only arrays leave it."""
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

NAME = "/kaggle/input/reranker/checkpoint-900"
tokenizer = AutoTokenizer.from_pretrained(NAME)
replicas = [
    AutoModelForSequenceClassification.from_pretrained(
        NAME, num_labels=3, dtype=torch.float16, device_map=f"cuda:{i}"
    ).eval()
    for i in range(2)
]


@torch.no_grad()
def infer(frame, model, batch_size=16):
    chunks = []
    for start in range(0, len(frame), batch_size):
        part = frame.iloc[start:start + batch_size]
        enc = tokenizer(part["text"].tolist(), padding=True, truncation=True,
                        max_length=1024, return_tensors="pt").to(model.device)
        chunks.append(model(**enc).logits.softmax(-1).float().cpu().numpy())
    return np.concatenate(chunks)


data = pd.read_parquet("test.parquet")
data["length"] = data["text"].str.len()
data = data.sort_values("length", ascending=False)
halves = [data.iloc[0::2], data.iloc[1::2]]

with ThreadPoolExecutor(max_workers=2) as executor:
    results = list(executor.map(infer, halves, replicas))

proba = pd.concat(
    pd.DataFrame(r, index=h.index, columns=["a", "b", "tie"]) for r, h in zip(results, halves)
).sort_index()
proba.to_csv("first_model.csv")

del replicas, results
gc.collect()
for i in range(torch.cuda.device_count()):
    with torch.cuda.device(i):
        torch.cuda.empty_cache()
    print(i, torch.cuda.memory_allocated(i) / 2**20, "MiB")
