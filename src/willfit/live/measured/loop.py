"""A plain training loop that keeps its outputs until the next step."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from willfit.formulas.training.settings import TrainingSettings
from willfit.live.measured.batches import training_batch
from willfit.live.measured.steps import STEPS, Steps
from willfit.live.meter import Meter
from willfit.scenario import Scenario
from willfit.scenario.workload import Training


def run_loop(
    scenario: Scenario, model: Any, settings: TrainingSettings, meter: Meter, steps: Steps
) -> None:
    """`STEPS` steps of forward, backward, clipping and optimizer."""
    import torch

    from willfit.trace.trainer import loop_optimizer

    training = scenario.workload.training
    assert training is not None
    model.train()
    if settings.checkpointing:
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": settings.reentrant}
        )
    optimizer = loop_optimizer(settings.optimizer_name, model, settings.accumulation)
    trained = [p for p in model.parameters() if p.requires_grad]
    scaler = torch.amp.GradScaler(meter.device, enabled=bool(training.fp16))
    batch = _batch(model, training, settings)
    outputs: Any = None
    for _ in range(STEPS):
        steps.begin()
        for _ in range(settings.accumulation):
            with _cast(settings, meter):
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
    del outputs


def _batch(model: Any, training: Training, settings: TrainingSettings) -> dict[str, Any]:
    batch = training_batch(model, training, settings)
    if training.loss == "logits":
        del batch["labels"]
    if not training.padded:
        del batch["attention_mask"]
    return batch


def _cast(settings: TrainingSettings, meter: Meter) -> Any:
    import torch

    if settings.autocast is None:
        return nullcontext()
    return torch.autocast(meter.device, dtype=getattr(torch, settings.autocast.name))
