"""Batches of random tokens, as a trainer's data set or a loop has them."""

from __future__ import annotations

from typing import Any

from willfit.formulas.training.settings import TrainingSettings
from willfit.live.measured.infer import mask_of, random_ids
from willfit.scenario.workload import Training


def training_batch(model: Any, training: Training, settings: TrainingSettings) -> dict[str, Any]:
    """Random token ids, and labels of the head's kind."""
    import torch

    ids = random_ids(model, settings.batch, settings.seq_len)
    mask = mask_of(ids, padded=training.padded)
    labels = ids.masked_fill(mask == 0, -100)
    if type(_base(model)).__name__.endswith("ForSequenceClassification"):
        labels = torch.zeros(settings.batch, dtype=torch.int64, device=ids.device)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def rows_of(batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a batch, as a data set has them."""
    held = {name: value.cpu() for name, value in batch.items()}
    return [{name: value[i] for name, value in held.items()} for i in range(len(held["labels"]))]


def token_rows(model: Any, training: Training, settings: TrainingSettings) -> list[list[int]]:
    """Token ids of the rows of one micro-batch; the last is half as long where it is padded.

    Packed rows are given one by one: packing puts them together.
    """
    length = settings.seq_len
    count = settings.batch
    if settings.packed:
        count = training.micro_batch_size or count
        length //= count
    rows: list[list[int]] = random_ids(model, count, length).tolist()
    if training.padded:
        rows[-1] = rows[-1][: length - length // 2]
    return rows


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
