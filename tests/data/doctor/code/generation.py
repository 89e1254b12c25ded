import json
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "Qwen/Qwen2.5-7B-Instruct"
tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(name, torch_dtype=torch.bfloat16, device_map="auto")

BATCH = 16
MAX_PROMPT = 3072
rows = [json.loads(line) for line in open("questions.jsonl")]
answers = []
for i in range(0, len(rows), BATCH):
    prompts = [r["prompt"] for r in rows[i : i + BATCH]]
    inputs = tokenizer(
        prompts, return_tensors="pt", padding=True, truncation=True, max_length=MAX_PROMPT
    ).to(model.device)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=512, do_sample=False)
    answers += tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
