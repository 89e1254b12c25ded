from transformers import (AutoTokenizer, T5ForConditionalGeneration, Seq2SeqTrainer,
                          Seq2SeqTrainingArguments, DataCollatorForSeq2Seq)
from datasets import load_dataset

checkpoint = "google/flan-t5-large"
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
model = T5ForConditionalGeneration.from_pretrained(checkpoint)
data = load_dataset("billsum", split="ca_test").train_test_split(test_size=0.2)

def preprocess_function(examples):
    inputs = ["summarize: " + doc for doc in examples["text"]]
    model_inputs = tokenizer(inputs, max_length=1024, truncation=True)
    labels = tokenizer(text_target=examples["summary"], max_length=128, truncation=True)
    model_inputs["labels"] = labels["input_ids"]
    return model_inputs

tokenized = data.map(preprocess_function, batched=True)
kwargs = dict(output_dir="sum", learning_rate=2e-5, weight_decay=0.01, num_train_epochs=4)
kwargs["per_device_train_batch_size"] = 8
args = Seq2SeqTrainingArguments(**kwargs, optim="adafactor", predict_with_generate=True)
trainer = Seq2SeqTrainer(model=model, args=args, train_dataset=tokenized["train"],
                         data_collator=DataCollatorForSeq2Seq(tokenizer=tokenizer, model=model))
trainer.train()
