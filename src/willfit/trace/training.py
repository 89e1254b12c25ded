"""A training step of the real code: forward, backward, clipping and the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from willfit.formulas.training.settings import TrainingSettings
from willfit.scenario.workload import Training
from willfit.trace.inputs import training_batch
from willfit.trace.optimizers import make_optimizer
from willfit.trace.session import Session

STEPS = 2
"""The first creates the optimizer's states; the second is as all later ones."""


def run_training(session: Session, training: Training, settings: TrainingSettings) -> None:
    """Two steps on the session's model; its recording has them."""
    model: Any = session.model
    model.train()
    _set_up(model, session, settings)
    recorder = session.recorder
    with session.running():
        optimizer = make_optimizer(
            settings.optimizer_name, settings.optimizer, model.parameters(), recorder
        )
        kept: Any = None
        for _ in range(STEPS):
            for _ in range(min(settings.accumulation, 2)):
                recorder.phase = "forward"
                batch = training_batch(
                    model,
                    batch=settings.batch,
                    length=settings.seq_len,
                    padded=training.padded,
                )
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
            recorder.mark(_states(optimizer), "optimizer_states")
            optimizer.zero_grad()
        del kept


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
