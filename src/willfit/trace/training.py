"""A training step of the real code: forward, backward, clipping and the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from willfit.formulas.training.settings import TrainingSettings
from willfit.scenario.workload import Training
from willfit.trace.adapters import adapter_optimizer
from willfit.trace.optimizers import make_optimizer
from willfit.trace.session import Session

STEPS = 2
"""Steps by default: the first creates the optimizer's states, the second is as all later ones."""


def run_training(session: Session, training: Training, settings: TrainingSettings) -> None:
    """A few steps on the session's model; its recording has them."""
    model: Any = session.model
    model.train()
    _set_up(model, session, settings)
    recorder = session.recorder
    with session.running():
        optimizer = _optimizer(model, session, training, settings)
        kept: Any = None
        lengths = training.step_lengths or (settings.seq_len,) * STEPS
        for number, length in enumerate(lengths, 1):
            for _ in range(min(settings.accumulation, 2)):
                recorder.phase = "forward"
                batch = _batch(model, length, settings, training)
                with _autocast(settings.autocast):
                    outputs = model(**batch)
                loss = outputs["loss"]
                recorder.mark([outputs.get("logits")], "logits")
                recorder.mark(_cached(outputs), "kv_cache")
                if settings.keeps_outputs:
                    kept = outputs
                del outputs, batch
                recorder.phase = "backward"
                if settings.accumulation > 1:
                    loss = loss / settings.accumulation
                loss.backward()
                del loss
                recorder.mark((p.grad for p in model.parameters()), "gradients")
            recorder.phase = "clip"
            if training.max_grad_norm:
                torch.nn.utils.clip_grad_norm_(
                    [p for p in model.parameters() if p.requires_grad],
                    training.max_grad_norm,
                    foreach=True,
                )
            recorder.phase = "step"
            optimizer.step()
            _reallocate(model, number)
            recorder.mark(_states(optimizer), "optimizer_states")
            if training.empties_cache and number < len(lengths):
                recorder.empty_cache()
            optimizer.zero_grad()
        del kept


def _optimizer(model: Any, session: Session, training: Training, settings: TrainingSettings) -> Any:
    """PEFT's own, which decides itself what is frozen, or torch's on all that trains."""
    name = settings.optimizer_name
    found = adapter_optimizer(name, model)
    if training.adapter_was_disabled and hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            pass
    if found is not None:
        return found
    return make_optimizer(name, settings.optimizer, model.parameters(), session.recorder)


def _reallocate(model: Any, number: int) -> None:
    """What an adapter wants to be called after every step (AdaLoRA scores its ranks)."""
    update = getattr(getattr(model, "base_model", None), "update_and_allocate", None)
    if update is not None:
        update(number)


def _set_up(model: Any, session: Session, settings: TrainingSettings) -> None:
    """What the trainer sets on a model before its first step."""
    if not settings.keeps_outputs:
        model.config.use_cache = False
    if settings.checkpointing:
        with session.mode:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": settings.reentrant}
            )
        if any(not p.requires_grad for p in model.parameters()):
            model.enable_input_require_grads()


def _batch(
    model: Any, length: int, settings: TrainingSettings, training: Training
) -> dict[str, Any]:
    """Token ids and labels on the device; a mask where the batch is padded."""
    shape = (settings.batch, length)
    ids = torch.zeros(shape, dtype=torch.int64)
    batch: dict[str, Any] = {"input_ids": ids, "labels": ids}
    if training.padded:
        batch["attention_mask"] = torch.ones(shape, dtype=torch.int64)
    if _is_classifier(model):
        batch["labels"] = torch.zeros(settings.batch, dtype=torch.int64)
    return batch


def _is_classifier(model: Any) -> bool:
    base = getattr(model, "get_base_model", lambda: model)()
    return type(base).__name__.endswith("ForSequenceClassification")


def _cached(outputs: Any) -> Iterator[torch.Tensor]:
    cache = outputs.get("past_key_values")
    for layer in getattr(cache, "layers", None) or ():
        yield from (getattr(layer, "keys", None), getattr(layer, "values", None))  # type: ignore[misc]


def _states(optimizer: Any) -> Iterator[Any]:
    for state in getattr(optimizer, "state", {}).values():
        yield from state.values()


@contextmanager
def _autocast(dtype: Any) -> Iterator[None]:
    context: Any = nullcontext()
    if dtype is not None:
        context = torch.autocast("cpu", dtype=getattr(torch, dtype.name))
    with context:
        yield
