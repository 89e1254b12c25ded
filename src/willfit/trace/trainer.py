"""The Trainer's own choice of optimizer for a model, without the rest of a Trainer."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from types import SimpleNamespace
from typing import Any, Final

import torch

from willfit.errors import UnsupportedError

LOW_RANK: Final = ("galore", "apollo")
"""Optimizers that must be told their modules (``optim_target_modules``)."""


def trainer_optimizer(name: str, model: torch.nn.Module, accumulation: int) -> Any:
    """``Trainer.create_optimizer``: its groups, settings and overrides, at its defaults.

    Raises `UnsupportedError` with the Trainer's own reason where it does not make one.
    """
    from transformers import Trainer, TrainingArguments
    from transformers.training_args import OptimizerNames, ParallelMode

    arguments = {field.name: _default(field) for field in fields(TrainingArguments)}
    arguments |= {
        "optim": OptimizerNames(name),
        "optim_target_modules": "all-linear" if name.startswith(LOW_RANK) else None,
        "gradient_accumulation_steps": accumulation,
        "parallel_mode": ParallelMode.NOT_PARALLEL,
    }
    trainer: Any = Trainer.__new__(Trainer)
    trainer.model, trainer.optimizer, trainer.optimizer_cls_and_kwargs = model, None, None
    trainer.args = SimpleNamespace(**arguments)
    try:
        return trainer.create_optimizer()
    except (ImportError, ValueError, TypeError) as error:
        raise UnsupportedError(
            f"the Trainer makes no optimizer {name} here: {' '.join(str(error).split())[:200]}; "
            "leave --trace out for the formulas' estimate, or choose another --optim"
        ) from error


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default
