"""Fine-tune an encoder on product reviews with the Trainer."""
import argparse
import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import evaluate
import numpy as np
import torch
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

LABELS = ["negative", "neutral", "positive"]
f1 = evaluate.load("f1")


def parse_args():
    p = argparse.ArgumentParser()
    p.add_argument("--model", default="microsoft/deberta-v3-base")
    p.add_argument("--data", default="reviews.parquet")
    p.add_argument("--max-length", type=int, default=384)
    p.add_argument("--out", default="out/reviews")
    p.add_argument("--lr", type=float, default=2e-5)
    p.add_argument("--resume", action="store_true")
    return p.parse_args()


def compute_metrics(pred):
    logits, labels = pred
    preds = np.argmax(logits, axis=-1)
    return f1.compute(predictions=preds, references=labels, average="macro")


def main():
    args = parse_args()
    set_seed(13)
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def encode(batch):
        enc = tokenizer(batch["text"], truncation=True, max_length=args.max_length)
        enc["labels"] = [LABELS.index(x) for x in batch["label"]]
        return enc

    ds = load_dataset("parquet", data_files=args.data, split="train")
    ds = ds.train_test_split(test_size=0.1, seed=13)
    ds = ds.map(encode, batched=True, remove_columns=ds["train"].column_names)

    model = AutoModelForSequenceClassification.from_pretrained(
        args.model,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={x: i for i, x in enumerate(LABELS)},
    )
    targs = TrainingArguments(
        output_dir=args.out,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=2,
        learning_rate=args.lr,
        num_train_epochs=3,
        warmup_steps=100,
        weight_decay=0.01,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        save_total_limit=2,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        report_to="none",
        logging_steps=50,
    )
    trainer = Trainer(
        model=model,
        args=targs,
        train_dataset=ds["train"],
        eval_dataset=ds["test"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train(resume_from_checkpoint=args.resume or None)
    print(trainer.evaluate())
    trainer.save_model(args.out)


if __name__ == "__main__":
    main()
