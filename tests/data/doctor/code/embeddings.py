import torch
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer

tok = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
enc = AutoModel.from_pretrained("google-bert/bert-base-uncased").half().cuda().eval()


@torch.inference_mode()
def embed(texts, batch_size=256):
    vectors = []
    for chunk in DataLoader(texts, batch_size=batch_size):
        x = tok(list(chunk), padding="max_length", truncation=True, max_length=512, return_tensors="pt")
        h = enc(**x.to("cuda")).last_hidden_state
        vectors.append(h.mean(1).cpu())
    return torch.cat(vectors)


vectors = embed(open("corpus.txt").read().splitlines())
