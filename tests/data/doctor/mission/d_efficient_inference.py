"""What a guide of 2023 recommends for inference on one GPU, as somebody pasted it together."""
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

tokenizer = AutoTokenizer.from_pretrained("facebook/opt-350m")

model = AutoModelForCausalLM.from_pretrained("facebook/opt-350m", torch_dtype=torch.float16)
model = model.to("cuda")
model = model.to_bettertransformer()

inputs = tokenizer("The weather in May is", return_tensors="pt").to("cuda")
with torch.backends.cuda.sdp_kernel(
    enable_flash=True, enable_math=False, enable_mem_efficient=False
):
    print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))

model = model.reverse_bettertransformer()
model.save_pretrained("opt-350m-saved")
del model
torch.cuda.empty_cache()

bloom = AutoModelForCausalLM.from_pretrained(
    "bigscience/bloom-3b",
    device_map="auto",
    load_in_4bit=True,
    max_memory={0: "600MB", 1: "1GB"},
)
prompt = tokenizer("Hello, my llama is cute", return_tensors="pt")
print(tokenizer.decode(bloom.generate(**prompt, max_new_tokens=20)[0]))
del bloom

t5_like = AutoModelForCausalLM.from_pretrained(
    "bigscience/bloom-3b", device_map="auto", load_in_8bit=True
)
ask = pipeline("text-generation", model=t5_like, tokenizer=tokenizer)
print(ask("Hello, my llama is cute"))
