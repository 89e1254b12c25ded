"""The Trainer's own choice of optimizer for a model, without the rest of a Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from types import SimpleNamespace
from typing import Any

import torch

from willfit.errors import UnsupportedError
from willfit.formulas.training.optimizers import LOW_RANK


def trainer_optimizer(name: str, model: torch.nn.Module, accumulation: int) -> Any:
    """``Trainer.create_optimizer``: its groups, settings and overrides, at its defaults.

    Raises `UnsupportedError` with the Trainer's own reason where it does not make one.
    """
    from transformers import Trainer

    trainer: Any = Trainer.__new__(Trainer)
    trainer.model, trainer.optimizer, trainer.optimizer_cls_and_kwargs = model, None, None
    trainer.args = _arguments(name, accumulation)
    with _refusing(name):
        return trainer.create_optimizer()


def loop_optimizer(name: str, model: torch.nn.Module, accumulation: int) -> Any:
    """The same class in a loop of one's own: one group, no overrides."""
    from transformers import Trainer

    make: Any = Trainer.get_optimizer_cls_and_kwargs
    with _refusing(name):
        cls, settings = make(_arguments(name, accumulation), model)
        for key in ("params", "model", "optimizer_dict"):
            if key in settings:
                return cls(settings.pop(key), **settings)
        return cls([p for p in model.parameters() if p.requires_grad], **settings)


def _arguments(name: str, accumulation: int) -> SimpleNamespace:
    """``TrainingArguments`` at their defaults, without what they set up of devices."""
    from transformers import TrainingArguments
    from transformers.training_args import OptimizerNames, ParallelMode

    arguments = {field.name: _default(field) for field in fields(TrainingArguments)}
    arguments |= {
        "optim": OptimizerNames(name),
        "optim_target_modules": "all-linear" if name in LOW_RANK else None,
        "gradient_accumulation_steps": accumulation,
        "parallel_mode": ParallelMode.NOT_PARALLEL,
    }
    return SimpleNamespace(**arguments)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, ValueError, TypeError) as error:
        raise UnsupportedError(
            f"the Trainer makes no optimizer {name} here: {' '.join(str(error).split())[:200]}; "
            "leave --trace out for the formulas' estimate, or choose another --optim"
        ) from error


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default
