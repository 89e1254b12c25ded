#!/usr/bin/env python
"""Mean-pooled sentence embeddings of a folder of texts, written to one .npy file."""
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

BATCH = 64
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained("intfloat/multilingual-e5-base")
model = AutoModel.from_pretrained("intfloat/multilingual-e5-base").to(device)
model.eval()
if device == "cuda":
    model = model.half()


def mean_pool(hidden, mask):
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-6)


def embed(texts):
    order = np.argsort([-len(t) for t in texts])
    out = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.no_grad():
        for start in range(0, len(texts), BATCH):
            idx = order[start:start + BATCH]
            enc = tokenizer(
                ["passage: " + texts[i] for i in idx],
                padding=True,
                truncation=True,
                max_length=512,
                return_tensors="pt",
            ).to(device)
            hidden = model(**enc).last_hidden_state
            vec = torch.nn.functional.normalize(mean_pool(hidden, enc["attention_mask"]).float())
            out[idx] = vec.cpu().numpy()
    return out


if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).glob("**/*.txt"))
    texts = [p.read_text(errors="ignore") for p in paths]
    np.save(sys.argv[2], embed(texts))
    Path(sys.argv[2] + ".names").write_text("\n".join(map(str, paths)))
    print(f"{len(paths)} documents, peak "
          f"{torch.cuda.max_memory_allocated() / 2**20 if device == 'cuda' else 0:.0f} MiB")
