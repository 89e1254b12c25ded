"""Offline batch generation with vLLM, and a client of a running server."""
import json
import sys

from openai import OpenAI
from transformers import AutoTokenizer
from vllm import LLM, SamplingParams


def batch(path, out):
    rows = [json.loads(line) for line in open(path)]
    tok = AutoTokenizer.from_pretrained("Qwen/Qwen2.5-7B-Instruct")
    prompts = [
        tok.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        for row in rows
    ]
    llm = LLM(
        model="Qwen/Qwen2.5-7B-Instruct",
        dtype="bfloat16",
        tensor_parallel_size=2,
        gpu_memory_utilization=0.9,
        max_model_len=8192,
        max_num_seqs=64,
        enable_prefix_caching=True,
        enforce_eager=False,
        trust_remote_code=False,
    )
    params = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=512, stop=["</answer>"], seed=1)
    outputs = llm.generate(prompts, params)
    with open(out, "w") as f:
        for row, output in zip(rows, outputs):
            row["answer"] = output.outputs[0].text
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def ask(question):
    client = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
    stream = client.chat.completions.create(
        model="Qwen/Qwen2.5-7B-Instruct",
        messages=[{"role": "user", "content": question}],
        max_tokens=256,
        stream=True,
    )
    pieces = []
    for chunk in stream:
        delta = chunk.choices[0].delta.content or ""
        pieces.append(delta)
        print(delta, end="", flush=True)
    return "".join(pieces)


if __name__ == "__main__":
    if sys.argv[1] == "batch":
        batch(sys.argv[2], sys.argv[3])
    else:
        ask(" ".join(sys.argv[2:]))
