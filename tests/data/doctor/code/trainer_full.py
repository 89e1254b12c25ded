# fine-tune roberta on our support tickets (5 queues)
import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

MODEL = "FacebookAI/roberta-large"
MAX_LEN = 384
LABELS = ["billing", "bug", "feature", "account", "other"]

df = pd.read_csv("tickets.csv")
ds = Dataset.from_pandas(df).train_test_split(0.1, seed=7)

tok = AutoTokenizer.from_pretrained(MODEL)


def preprocess(batch):
    enc = tok(batch["text"], truncation=True, max_length=MAX_LEN)
    enc["labels"] = [LABELS.index(x) for x in batch["queue"]]
    return enc


ds = ds.map(preprocess, batched=True, remove_columns=ds["train"].column_names)

model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=len(LABELS))

training_args = TrainingArguments(
    output_dir="out",
    per_device_train_batch_size=16,
    per_device_eval_batch_size=32,
    learning_rate=2e-5,
    num_train_epochs=3,
    fp16=True,
    eval_strategy="epoch",
    report_to="none",
)


def compute_metrics(p):
    return {"acc": (np.argmax(p.predictions, -1) == p.label_ids).mean()}


trainer = Trainer(
    model=model,
    args=training_args,
    train_dataset=ds["train"],
    eval_dataset=ds["test"],
    data_collator=DataCollatorWithPadding(tok),
    compute_metrics=compute_metrics,
)
trainer.train()
