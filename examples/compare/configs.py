"""Two configurations of which one seemed to fit: what do they differ in?"""

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

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


def load(name, config):
    return AutoModelForCausalLM.from_pretrained(name, quantization_config=config)
