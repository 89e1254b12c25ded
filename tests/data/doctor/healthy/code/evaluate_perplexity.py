"""Sliding-window perplexity and multiple-choice accuracy of several checkpoints, one after another."""
import argparse
import gc
import json

import torch
import torch.nn.functional as F
from datasets import load_dataset
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.inference_mode()
def perplexity(model, ids, window=2048, stride=512):
    nlls, counted, prev = [], 0, 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + window, ids.size(1))
        fresh = end - prev
        chunk = ids[:, begin:end].to(model.device)
        target = chunk.clone()
        target[:, :-fresh] = -100
        loss = model(chunk, labels=target).loss
        nlls.append(loss.float().cpu() * fresh)
        counted += fresh
        prev = end
        if end == ids.size(1):
            break
    return torch.exp(torch.stack(nlls).sum() / counted).item()


@torch.inference_mode()
def choose(model, tok, rows):
    hits = 0
    for row in tqdm(rows):
        scores = []
        for choice in row["choices"]:
            ids = tok(row["question"] + " " + choice, return_tensors="pt").input_ids.to(model.device)
            logits = model(ids).logits[:, :-1]
            logp = F.log_softmax(logits.float(), -1).gather(-1, ids[:, 1:, None]).sum()
            scores.append(logp.item())
        hits += int(max(range(len(scores)), key=scores.__getitem__) == row["answer"])
    return hits / len(rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--questions", default="questions.json")
    args = parser.parse_args()
    wiki = load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split="test")
    rows = json.load(open(args.questions))
    results = {}
    for name in args.models:
        tok = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map="cuda").eval()
        ids = tok("\n\n".join(wiki["text"]), return_tensors="pt").input_ids
        results[name] = {"ppl": perplexity(model, ids), "accuracy": choose(model, tok, rows)}
        print(name, results[name])
        del model
        gc.collect()
        torch.cuda.empty_cache()
    json.dump(results, open("results.json", "w"), indent=2)


if __name__ == "__main__":
    main()
