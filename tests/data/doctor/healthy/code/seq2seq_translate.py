from datasets import load_dataset
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)
import numpy as np
import sacrebleu

checkpoint = "Helsinki-NLP/opus-mt-en-de"
tok = AutoTokenizer.from_pretrained(checkpoint)
model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)

raw = load_dataset("csv", data_files={"train": "train.csv", "valid": "valid.csv"})


def prepare(batch):
    return tok(batch["en"], text_target=batch["de"], truncation=True, max_length=128)


data = raw.map(prepare, batched=True, remove_columns=["en", "de"])


def bleu(pred):
    preds, labels = pred.predictions, pred.label_ids
    preds = np.where(preds != -100, preds, tok.pad_token_id)
    labels = np.where(labels != -100, labels, tok.pad_token_id)
    hyp = tok.batch_decode(preds, skip_special_tokens=True)
    ref = tok.batch_decode(labels, skip_special_tokens=True)
    return {"bleu": sacrebleu.corpus_bleu(hyp, [ref]).score}


common = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "learning_rate": 5e-5,
    "num_train_epochs": 2,
    "fp16": True,
    "report_to": "none",
}
args = Seq2SeqTrainingArguments(
    "opus-finetuned",
    eval_strategy="epoch",
    predict_with_generate=True,
    generation_max_length=128,
    generation_num_beams=4,
    **common,
)
trainer = Seq2SeqTrainer(
    model,
    args,
    train_dataset=data["train"],
    eval_dataset=data["valid"],
    data_collator=DataCollatorForSeq2Seq(tok, model=model),
    processing_class=tok,
    compute_metrics=bleu,
)
trainer.train()
print(trainer.evaluate())
