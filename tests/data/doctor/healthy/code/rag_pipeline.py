"""Question answering over our handbook: a retriever, a reranker and a generator share one GPU."""
import pickle

import faiss
import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

index = faiss.read_index("handbook.faiss")
with open("handbook.pkl", "rb") as f:
    passages = pickle.load(f)

retriever = SentenceTransformer("BAAI/bge-small-en-v1.5", device="cuda")
reranker = CrossEncoder("BAAI/bge-reranker-base", device="cuda", max_length=512)

llm_id = "microsoft/Phi-3.5-mini-instruct"
tok = AutoTokenizer.from_pretrained(llm_id)
llm = AutoModelForCausalLM.from_pretrained(
    llm_id,
    torch_dtype=torch.bfloat16,
    device_map="auto",
    max_memory={0: "16GiB", "cpu": "32GiB"},
)
generate = pipeline("text-generation", model=llm, tokenizer=tok, return_full_text=False)


def retrieve(question, k=40, keep=5):
    q = retriever.encode([question], normalize_embeddings=True)
    _, found = index.search(q.astype(np.float32), k)
    candidates = [passages[i] for i in found[0] if i >= 0]
    scores = reranker.predict([(question, c["text"]) for c in candidates])
    ranked = sorted(zip(scores, candidates), key=lambda x: -x[0])
    return [c for _, c in ranked[:keep]]


def answer(question):
    context = "\n\n".join(f"[{i}] {c['text']}" for i, c in enumerate(retrieve(question), 1))
    messages = [
        {"role": "system", "content": "Answer from the passages only and cite them."},
        {"role": "user", "content": f"{context}\n\nQuestion: {question}"},
    ]
    return generate(messages, max_new_tokens=300, do_sample=False)[0]["generated_text"]


if __name__ == "__main__":
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            break
        if question:
            print(answer(question))
