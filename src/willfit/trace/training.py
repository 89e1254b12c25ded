"""A training step of the real code: forward, backward, clipping and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from willfit.formulas.training.settings import TrainingSettings
from willfit.scenario.workload import Training
from willfit.trace.adapters import adapter_optimizer
from willfit.trace.caches import cache_tensors
from willfit.trace.cuda.kernels import replaced
from willfit.trace.fused_loss import fused_losses
from willfit.trace.inputs import forward_batch, training_batch
from willfit.trace.masks import nothing_hidden
from willfit.trace.offloading import NOTE, offloaded_activations
from willfit.trace.optimizers import make_optimizer, optimizer_on_cuda, state_tensors
from willfit.trace.precision import MixedPrecision
from willfit.trace.session import Session

STEPS: Final = 2
"""The first creates the optimizer's states; the second is as all later ones."""
MORE_STEPS: Final = {"schedule_free_radam": 7}
"""Optimizers whose first steps are unlike the later ones: RAdam's variance counts from the 6th."""
MICRO_STEPS: Final = 2
"""Micro-batches of a step that are run: the second finds gradients, as all later ones do."""


def run_training(
    session: Session, training: Training, settings: TrainingSettings, *, scales: bool = True
) -> None:
    """Steps on the session's model, the longest batch last; its recording has them.

    ``scales``: whether gradients are as fp16's scaler finds them (`MixedPrecision`).
    """
    model: Any = session.model
    model.train()
    _set_up(model, session, settings)
    precision = MixedPrecision(
        settings.autocast, accelerate=not settings.keeps_outputs, scales=scales
    )
    precision.check(model.parameters())
    with (
        optimizer_on_cuda(settings.optimizer_name),
        fused_losses(
            model, training, settings, session.gpu, session.recording.assumptions
        ) as extra,
        session.running(packed=settings.packed, sdpa_kernel=training.sdpa_kernel),
        replaced([] if training.padded or settings.packed else list(nothing_hidden())),
    ):
        if training.offload_activations:
            session.recording.assumptions.append(NOTE)
        optimizer = _optimizer(model, session, training, settings)
        session.alive.append(optimizer)
        run = _Run(session, training, settings, precision, optimizer, extra)
        steps = MORE_STEPS.get(settings.optimizer_name, STEPS)
        lengths = training.step_lengths or settings.step_lengths or (settings.seq_len,) * steps
        for number, seq_len in enumerate(lengths, 1):
            run.step(number, seq_len, last=number == len(lengths))
        del run


class _Run:
    """The steps of one optimizer; what a plain loop keeps of a step lives until the next one."""

    def __init__(
        self,
        session: Session,
        training: Training,
        settings: TrainingSettings,
        precision: MixedPrecision,
        optimizer: Any,
        extra: Mapping[str, Any],
    ) -> None:
        """``extra``: what the trainer calls the model with besides the batch."""
        self._model: Any = session.model
        self._recorder = session.recorder
        self._training = training
        self._settings = settings
        self._precision = precision
        self._optimizer = optimizer
        self._extra = extra
        self._kept: Any = None
        if hasattr(optimizer, "train"):
            optimizer.train()  # schedule-free ones have two modes, as the Trainer knows

    def step(self, number: int, seq_len: int, *, last: bool) -> None:
        """The ``number``-th step of the optimizer, from 1."""
        recorder, optimizer = self._recorder, self._optimizer
        settings = replace(self._settings, seq_len=seq_len)
        for _ in range(min(settings.accumulation, MICRO_STEPS)):
            self._micro_step(settings)
        recorder.phase = "clip"
        if self._training.max_grad_norm:
            self._precision.unscale(optimizer)
            torch.nn.utils.clip_grad_norm_(self._trained(), self._training.max_grad_norm)
        recorder.phase = "step"
        if not _in_backward(optimizer):
            self._precision.step(optimizer)
        _reallocate(self._model, number)
        recorder.mark(state_tensors(optimizer), "optimizer_states")
        every = self._training.empties_cache_every
        if every and number % every == 0 and not last:
            recorder.empty_cache()
        self._model.zero_grad()

    def _micro_step(self, settings: TrainingSettings) -> None:
        with offloaded_activations(self._model, on=self._training.offload_activations):
            self._passes(settings)

    def _passes(self, settings: TrainingSettings) -> None:
        """Forward and backward of a micro-batch."""
        self._recorder.phase = "forward"
        loss = self._forward(settings)
        self._recorder.phase = "backward"
        if settings.accumulation > 1:
            loss = loss / settings.accumulation
        loss = self._precision.scaled(loss)
        if _in_backward(self._optimizer):
            self._optimizer.fused_backward(loss, 1.0)
        else:
            loss.backward()  # type: ignore[no-untyped-call]
        self._recorder.mark((p.grad for p in self._model.parameters()), "gradients")

    def _forward(self, settings: TrainingSettings) -> torch.Tensor:
        """The loss; the outputs beside it are gone unless the loop keeps them."""
        make = training_batch if self._training.loss == "model" else forward_batch
        batch: dict[str, Any] = make(
            self._model,
            batch=settings.batch,
            length=settings.seq_len,
            padded=self._training.padded,
        )
        batch.update(self._extra)
        if settings.packed:
            batch["position_ids"] = torch.zeros_like(batch["input_ids"])
        outputs = self._precision.forward(self._model, batch)
        self._recorder.mark([outputs.get("logits")], "logits")
        self._recorder.mark(cache_tensors(outputs.get("past_key_values")), "kv_cache")
        if settings.keeps_outputs:
            self._kept = outputs
        if self._training.loss == "model":
            return outputs["loss"]  # type: ignore[no-any-return]
        return outputs["logits"].sum()  # type: ignore[no-any-return]

    def _trained(self) -> Sequence[torch.Tensor]:
        return [p for p in self._model.parameters() if p.requires_grad]


def _in_backward(optimizer: Any) -> bool:
    """LOMO's step is a part of backward (accelerate.Accelerator.lomo_backward)."""
    return hasattr(optimizer, "fused_backward")


def _optimizer(model: Any, session: Session, training: Training, settings: TrainingSettings) -> Any:
    """PEFT's own, which decides itself what is frozen, or torch's on all that trains."""
    name = settings.optimizer_name
    found = adapter_optimizer(name, model)
    if training.adapter_was_disabled and hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            pass
    if found is not None:
        return found
    return make_optimizer(
        name,
        settings.optimizer,
        model,
        session.recorder,
        accumulation=settings.accumulation,
        loop=training.trainer == "loop",
    )


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
