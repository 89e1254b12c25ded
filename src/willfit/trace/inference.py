"""Inference of the real code: one forward pass, or ``generate``."""

from __future__ import annotations

from typing import Any

import torch

from willfit.formulas.inference.settings import Settings
from willfit.scenario.workload import Inference
from willfit.trace.generation import Decoding, generate
from willfit.trace.session import Session


def run_inference(session: Session, inference: Inference, settings: Settings) -> Decoding | None:
    """A forward pass of a model without a cache (None), else ``generate``'s first steps."""
    model: Any = session.model
    model.eval()
    recorder = session.recorder
    with session.running(), torch.no_grad():
        if not _generates(model):
            recorder.phase = "forward"
            outputs = model(**_inputs(model, settings.batch, settings.prompt_len, inference))
            recorder.mark([outputs.get("logits")], "logits")
            return None
        recorder.phase = "prefill"
        ids = torch.zeros((settings.batch, settings.prompt_len), dtype=torch.int64)
        return generate(
            model,
            recorder,
            {"input_ids": ids, **_mask(inference, settings.batch, settings.prompt_len)},
            new_tokens=settings.new_tokens,
            masked=inference.padded,
            full_logits=inference.full_logits,
        )


def _generates(model: Any) -> bool:
    """Whether the class has a language model's head and ``generate``."""
    return bool(getattr(model, "can_generate", lambda: False)())


def _inputs(model: Any, batch: int, length: int, inference: Inference) -> dict[str, Any]:
    """What the model's forward pass takes: pixels where it takes those, else token ids."""
    if model.main_input_name == "pixel_values":
        config = model.config
        size = getattr(config, "image_size", 224)
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        channels = getattr(config, "num_channels", 3)
        dtype = next(model.parameters()).dtype
        return {"pixel_values": torch.zeros((batch, channels, height, width), dtype=dtype)}
    ids = torch.zeros((batch, length), dtype=torch.int64)
    return {"input_ids": ids, **_mask(inference, batch, length)}


def _mask(inference: Inference, batch: int, length: int) -> dict[str, torch.Tensor]:
    return (
        {"attention_mask": torch.ones((batch, length), dtype=torch.int64)}
        if inference.padded
        else {}
    )
