# Why does the 7B model run out of memory and the 8B not? Both in 8 bit, on one GPU.
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

first = BitsAndBytesConfig(
    load_in_8bit=True,
    bnb_8bit_compute_dtype=torch.float16,
    bnb_8bit_use_double_quant=False,
)
second = BitsAndBytesConfig(
    load_in_8bit=True,
    bnb_8bit_quant_type="nf8",
    bnb_8bit_use_double_quant=True,
    bnb_8bit_compute_dtype=torch.bfloat16,
)

mistral = AutoModelForCausalLM.from_pretrained(
    "mistralai/Mistral-7B-v0.1", quantization_config=first, device_map="auto"
)
tokenizer = AutoTokenizer.from_pretrained("mistralai/Mistral-7B-v0.1")
ids = tokenizer("What is 17 + 25?", return_tensors="pt").to(mistral.device)
print(tokenizer.decode(mistral.generate(**ids, max_new_tokens=20)[0]))
torch.cuda.empty_cache()

llama = AutoModelForCausalLM.from_pretrained(
    "meta-llama/Meta-Llama-3-8B", quantization_config=second, device_map="auto"
)
print(llama.get_memory_footprint() / 2**30)
