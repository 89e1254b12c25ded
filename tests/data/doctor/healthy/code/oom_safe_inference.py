"""Scores every row, halving the batch when it does not fit: the retry is outside of ``except``."""
import csv
import gc

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def load(path):
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=3, torch_dtype=torch.float16, device_map="cuda:0"
    )
    return tokenizer, model.eval()


@torch.no_grad()
def forward(model, tokenizer, texts):
    enc = tokenizer(texts, padding="longest", truncation=True, max_length=1024, return_tensors="pt")
    enc = enc.to(model.device)
    return model(**enc).logits.float().softmax(-1).cpu()


def score(model, tokenizer, texts, size=32):
    done, parts = 0, []
    while done < len(texts):
        failed = None
        try:
            parts.append(forward(model, tokenizer, texts[done:done + size]))
            done += size
        except torch.cuda.OutOfMemoryError as error:
            failed = str(error).splitlines()[0]
        if failed:
            if size == 1:
                raise RuntimeError(f"one row does not fit: {failed}")
            size //= 2
            print(f"batch size is now {size}")
            gc.collect()
            torch.cuda.empty_cache()
    return torch.cat(parts)


def main():
    with open("test.csv") as f:
        rows = list(csv.DictReader(f))
    total = None
    for path in ("ckpt/fold0", "ckpt/fold1", "ckpt/fold2"):
        tokenizer, model = load(path)
        probs = score(model, tokenizer, [r["prompt"] + "\n" + r["response"] for r in rows])
        total = probs if total is None else total + probs
        del tokenizer, model
        gc.collect()
        torch.cuda.empty_cache()
    with open("submission.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["id", "a", "b", "tie"])
        for row, p in zip(rows, (total / 3).tolist()):
            writer.writerow([row["id"], *[f"{x:.6f}" for x in p]])


if __name__ == "__main__":
    main()
