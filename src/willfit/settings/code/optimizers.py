"""Optimizer classes of plain loops, by the Trainer's names for the same states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

OPTIMIZERS: Final[Mapping[str, str]] = {
    "AdamW": "adamw_torch",
    "Adam": "adamw_torch",
    "NAdam": "adamw_torch",
    "RAdam": "adamw_torch",
    "FusedAdam": "adamw_torch_fused",
    "SGD": "sgd",
    "Adagrad": "adagrad",
    "RMSprop": "rmsprop",
    "Adafactor": "adafactor",
    "AdamW8bit": "adamw_8bit",
    "Adam8bit": "adamw_8bit",
    "AdamW32bit": "adamw_bnb_32bit",
    "PagedAdamW": "paged_adamw_32bit",
    "PagedAdamW32bit": "paged_adamw_32bit",
    "PagedAdamW8bit": "paged_adamw_8bit",
    "PagedAdam8bit": "paged_adamw_8bit",
    "Lion": "lion_32bit",
    "Lion32bit": "lion_32bit",
    "Lion8bit": "lion_8bit",
    "PagedLion8bit": "paged_lion_8bit",
    "AdamW4bit": "adamw_torch_4bit",
    "_AdamW": "adamw_torch",
    "AdaLomo": "adalomo",
    "Lomo": "lomo",
}
"""By class: torch.optim, bitsandbytes.optim, torchao.optim, transformers, lomo_optim. Adam with and
without decoupled decay keeps the same two states; a fused one makes no temporaries."""
