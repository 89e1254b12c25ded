"""Training for real: the Trainer's own steps, or a plain loop's, each phase read and then timed."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any, Final

from willfit.errors import UnsupportedError
from willfit.formulas.training.settings import TrainingSettings
from willfit.live.measured.infer import mask_of, random_ids, sdpa
from willfit.live.meter import Meter
from willfit.scenario.workload import Training

READ: Final = 2
"""Steps that are read: the first makes the optimizer's states, the second is as all later ones."""
PARTED: Final = READ + 1
"""The step whose phases are timed, with a pause after each."""
STEPS: Final = READ + 3
"""The last two run without a pause and are timed whole."""


def run_training(
    model: Any,
    training: Training,
    settings: TrainingSettings,
    meter: Meter,
    *,
    history: bool,
) -> dict[str, float]:
    """Seconds of a step; the meter has the readings. ``history``: what was alive in step 2."""
    if training.trainer == "trl":
        raise UnsupportedError("a TRL run is not measured yet: use --trainer transformers or loop")
    with sdpa(training.sdpa_kernel):
        if training.trainer == "loop":
            seconds = _loop(model, training, settings, meter, history=history)
        else:
            seconds = _trainer(model, training, settings, meter, history=history)
    tokens = settings.tokens * settings.accumulation
    step = seconds.whole
    return {
        "optimizer_step": step,
        "tokens_per_second": tokens / step,
        "step_tokens": tokens,
        **seconds.parts,
    }


def _batch(model: Any, training: Training, settings: TrainingSettings) -> dict[str, Any]:
    """Random token ids, and labels of the head's kind."""
    import torch

    ids = random_ids(model, settings.batch, settings.seq_len)
    mask = mask_of(ids, padded=training.padded)
    labels = ids.masked_fill(mask == 0, -100)
    if type(_base(model)).__name__.endswith("ForSequenceClassification"):
        labels = torch.zeros(settings.batch, dtype=torch.int64, device=ids.device)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class _Steps:
    """What is done at the ends of phases, whoever runs the steps."""

    def __init__(self, meter: Meter, *, history: bool) -> None:
        self.number = 0
        self.parts: dict[str, float] = {}
        self._whole: list[float] = []
        self._since = 0.0
        self._meter = meter
        self._history = history
        self._recording: Any = None
        self._started = 0.0

    def begin(self) -> None:
        """A step begins."""
        self.number += 1
        if self._history and self.number == READ:
            self._recording = self._meter.history()
            self._recording.__enter__()
        self._meter.wait()
        self._started = self._since = time.perf_counter()

    @property
    def whole(self) -> float:
        """Seconds of a step that ran without a pause."""
        return min(self._whole)

    def mark(self, phase: str) -> None:
        """A phase ends."""
        if self.number <= READ:
            self._meter.mark(phase, self.number)
        elif self.number == PARTED:
            self._meter.wait()
            now = time.perf_counter()
            self.parts[phase] = self.parts.get(phase, 0.0) + now - self._since
            self._since = now

    def end(self) -> None:
        """A step is done."""
        if self.number > PARTED:
            self._meter.wait()
            self._whole.append(time.perf_counter() - self._started)
        if self._recording is not None:
            self._recording.__exit__(None, None, None)
            self._recording = None


def _trainer(
    model: Any, training: Training, settings: TrainingSettings, meter: Meter, *, history: bool
) -> _Steps:
    """``transformers.Trainer`` on a data set of equal rows."""
    import transformers

    steps = _Steps(meter, history=history)

    class Watcher(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.begin()

        def on_substep_end(self, *_: Any, **__: Any) -> None:
            steps.mark("backward")

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            steps.mark("backward")

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            steps.mark("step")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.end()

    class Watched(transformers.Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            steps.mark("forward")
            return loss

    batch = {name: value.cpu() for name, value in _batch(model, training, settings).items()}
    rows = [{name: value[i] for name, value in batch.items()} for i in range(settings.batch)]
    trainer = Watched(
        model=model,
        args=_arguments(training, settings, meter),
        train_dataset=rows * settings.accumulation * (STEPS),
        callbacks=[Watcher()],
    )
    trainer.train()
    return steps


def _arguments(training: Training, settings: TrainingSettings, meter: Meter) -> Any:
    import tempfile

    import transformers

    return transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(prefix="willfit-measure-"),
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulation,
        gradient_checkpointing=settings.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": settings.reentrant}
        if settings.checkpointing
        else None,
        optim=settings.optimizer_name,
        bf16=bool(training.bf16),
        fp16=bool(training.fp16),
        max_grad_norm=training.max_grad_norm or 0.0,
        max_steps=STEPS,
        learning_rate=1e-5,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not meter.cuda,
        dataloader_pin_memory=False,
    )


def _loop(
    model: Any, training: Training, settings: TrainingSettings, meter: Meter, *, history: bool
) -> _Steps:
    """A plain loop that keeps its outputs until the next step."""
    import torch

    from willfit.trace.trainer import loop_optimizer

    model.train()
    if settings.checkpointing:
        _checkpoint(model, settings)
    optimizer = loop_optimizer(settings.optimizer_name, model, settings.accumulation)
    trained = [p for p in model.parameters() if p.requires_grad]
    cast = (
        torch.autocast(meter.device, dtype=getattr(torch, settings.autocast.name))
        if settings.autocast is not None
        else nullcontext()
    )
    scaler = torch.amp.GradScaler(meter.device, enabled=bool(training.fp16))
    batch = _batch(model, training, settings)
    if training.loss == "logits":
        del batch["labels"]
    if not training.padded:
        del batch["attention_mask"]
    steps = _Steps(meter, history=history)
    outputs: Any = None
    for _ in range(STEPS):
        steps.begin()
        for _ in range(settings.accumulation):
            with cast:
                outputs = model(**batch)
                loss = outputs.logits.sum() if training.loss == "logits" else outputs.loss
            steps.mark("forward")
            scaler.scale(loss / settings.accumulation).backward()
            steps.mark("backward")
        scaler.unscale_(optimizer)
        if training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(trained, training.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        steps.mark("step")
        optimizer.zero_grad()
        steps.end()
    return steps


def _checkpoint(model: Any, settings: TrainingSettings) -> None:
    model.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": settings.reentrant}
    )
    if any(not p.requires_grad for p in model.parameters()):
        model.enable_input_require_grads()
