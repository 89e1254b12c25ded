"""Merge a LoRA adapter into its base on the CPU, and check that the logits agree."""
import gc
import json
import sys
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

adapter_dir, out_dir = Path(sys.argv[1]), Path(sys.argv[2])
cfg = PeftConfig.from_pretrained(adapter_dir)
base_id = cfg.base_model_name_or_path
print("base:", base_id)

base = AutoModelForCausalLM.from_pretrained(
    base_id, torch_dtype=torch.bfloat16, low_cpu_mem_usage=True, device_map="cpu"
)
tokenizer = AutoTokenizer.from_pretrained(adapter_dir)
if len(tokenizer) > base.get_input_embeddings().num_embeddings:
    base.resize_token_embeddings(len(tokenizer))

model = PeftModel.from_pretrained(base, adapter_dir)
model.eval()

probe = tokenizer("The capital of Portugal is", return_tensors="pt")
with torch.no_grad():
    before = model(**probe).logits[:, -1].float()

merged = model.merge_and_unload()
with torch.no_grad():
    after = merged(**probe).logits[:, -1].float()
diff = (before - after).abs().max().item()
print(f"largest difference of the last logits: {diff:.4f}")
assert diff < 0.5, "merging changed the model"

out_dir.mkdir(parents=True, exist_ok=True)
merged.save_pretrained(out_dir, max_shard_size="4GB")
tokenizer.save_pretrained(out_dir)
(out_dir / "merge.json").write_text(json.dumps({"adapter": str(adapter_dir), "diff": diff}))

del base, model, merged
gc.collect()
if torch.cuda.is_available():
    torch.cuda.empty_cache()

# a quick look at the result on the GPU
if torch.cuda.is_available():
    gpu_model = AutoModelForCausalLM.from_pretrained(out_dir, dtype="auto", device_map="auto")
    inputs = tokenizer("Once upon a time", return_tensors="pt").to(gpu_model.device)
    ids = gpu_model.generate(**inputs, max_new_tokens=20)
    print(tokenizer.decode(ids[0]))
