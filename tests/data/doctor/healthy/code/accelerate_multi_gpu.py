import logging
import os

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from datasets import load_from_disk
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    get_scheduler,
)

logger = logging.getLogger(__name__)


def run(cfg):
    accelerator = Accelerator(
        mixed_precision="bf16",
        gradient_accumulation_steps=cfg["accum"],
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=cfg["out"], logging_dir=cfg["out"] + "/logs"),
    )
    set_seed(cfg["seed"])
    tokenizer = AutoTokenizer.from_pretrained(cfg["model"])
    model = AutoModelForCausalLM.from_pretrained(cfg["model"], dtype=torch.float32, use_cache=False)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    ds = load_from_disk(cfg["data"])
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    train_dl = DataLoader(ds["train"], shuffle=True, batch_size=cfg["bs"], collate_fn=collator)
    eval_dl = DataLoader(ds["validation"], batch_size=cfg["bs"], collate_fn=collator)

    decay, no_decay = [], []
    for name, p in model.named_parameters():
        (no_decay if p.ndim < 2 else decay).append(p)
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": no_decay, "weight_decay": 0.0}],
        lr=cfg["lr"],
        fused=True,
    )
    scheduler = get_scheduler("linear", optimizer, 100, cfg["max_steps"])
    model, optimizer, train_dl, eval_dl, scheduler = accelerator.prepare(
        model, optimizer, train_dl, eval_dl, scheduler
    )
    accelerator.init_trackers("lm")

    done = 0
    bar = tqdm(total=cfg["max_steps"], disable=not accelerator.is_main_process)
    while done < cfg["max_steps"]:
        model.train()
        total_loss = 0
        for batch in train_dl:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                total_loss += loss.detach().float()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                done += 1
                bar.update(1)
                if done % 50 == 0:
                    accelerator.log({"loss": total_loss.item() / 50}, step=done)
                    total_loss = 0
            if done >= cfg["max_steps"]:
                break

        model.eval()
        losses = []
        for batch in eval_dl:
            with torch.no_grad():
                outputs = model(**batch)
            losses.append(accelerator.gather_for_metrics(outputs.loss.repeat(cfg["bs"])))
        eval_loss = torch.cat(losses).mean().item()
        logger.info("eval loss %.4f", eval_loss)
        accelerator.log({"eval_loss": eval_loss}, step=done)

    accelerator.wait_for_everyone()
    unwrapped = accelerator.unwrap_model(model)
    unwrapped.save_pretrained(
        cfg["out"], is_main_process=accelerator.is_main_process, save_function=accelerator.save
    )
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    run(
        {
            "model": os.environ.get("MODEL", "HuggingFaceTB/SmolLM2-360M"),
            "data": "data/tokenised",
            "out": "runs/smol",
            "seed": 1,
            "bs": 8,
            "accum": 4,
            "lr": 3e-4,
            "max_steps": 2000,
        }
    )
