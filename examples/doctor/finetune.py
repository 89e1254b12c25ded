"""A QLoRA classifier as it was when it ran out of memory: see error.log."""

import pandas as pd
from datasets import Dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    Trainer,
    TrainingArguments,
)

MODEL = "meta-llama/Meta-Llama-3-8B"
MAX_LENGTH = 1024

quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_type="float16",
)
tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.pad_token = tokenizer.eos_token
model = AutoModelForSequenceClassification.from_pretrained(
    MODEL, num_labels=3, quantization_config=quantization, device_map="auto"
)
model.config.pad_token_id = tokenizer.pad_token_id
model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
model = get_peft_model(
    model,
    LoraConfig(
        r=64, lora_alpha=16, lora_dropout=0.1, target_modules="all-linear", task_type="SEQ_CLS"
    ),
)

rows = Dataset.from_pandas(pd.read_csv("train.csv"))
rows = rows.map(
    lambda row: tokenizer(row["text"], max_length=MAX_LENGTH, truncation=True), batched=True
)
arguments = TrainingArguments(
    output_dir="out",
    per_device_train_batch_size=1,
    gradient_accumulation_steps=8,
    optim="paged_adamw_32bit",
    fp16=True,
    num_train_epochs=1,
    report_to="none",
)
Trainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer).train()
