"""Inference of the real code: one forward pass, or ``generate``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from willfit.formulas.inference.settings import Settings
from willfit.scenario.workload import Inference
from willfit.trace.caches import make_cache
from willfit.trace.generation import Decoding, generate
from willfit.trace.inputs import encoder_batch, forward_batch
from willfit.trace.inputs.model import face
from willfit.trace.session import Session
from willfit.units import ceil_div


def run_inference(session: Session, inference: Inference, settings: Settings) -> Decoding | None:
    """A forward pass of a model without a cache (None), else ``generate``'s first steps."""
    model: Any = session.model
    model.eval()
    recorder = session.recorder
    with session.running(sdpa_kernel=inference.sdpa_kernel), torch.no_grad():
        if not face(model).generates or not inference.use_cache:
            recorder.phase = "forward"
            batch = _read(model, inference, settings, forward_batch)
            outputs = model(**batch, **_without_cache(model, inference))
            recorder.mark([outputs.get("logits")], "logits")
            return None
        recorder.phase = "prefill"
        return generate(
            model,
            recorder,
            _prompt(model, inference, settings),
            cache=make_cache(model, inference, settings, session.mark_cache),
            new_tokens=settings.new_tokens,
            masked=inference.padded,
            full_logits=inference.full_logits,
            chunks=(settings.chunk, _prefill_calls(settings)),
        )


def _without_cache(model: Any, inference: Inference) -> dict[str, Any]:
    """Arguments of a forward pass that keeps no cache, and the last position's logits alone."""
    if inference.use_cache:
        return {}
    takes = face(model).takes
    asked: dict[str, Any] = {"use_cache": False} if takes("use_cache") else {}
    if takes("logits_to_keep") and not inference.full_logits:
        asked["logits_to_keep"] = 1
    return asked


def _prefill_calls(settings: Settings) -> int:
    """Pieces of the prompt; releases with a method for them leave its last token for one more."""
    if settings.chunk is None:
        return 1
    library: Any = transformers.generation
    if hasattr(library.GenerationMixin, "_prefill_chunking"):
        return ceil_div(settings.prompt_len - 1, settings.chunk) + 1
    return ceil_div(settings.prompt_len, settings.chunk)


def _prompt(model: Any, inference: Inference, settings: Settings) -> dict[str, torch.Tensor]:
    """A text, or what the encoder reads: token ids, sound or an image."""
    if model.config.is_encoder_decoder:
        return _read(model, inference, settings, encoder_batch)
    shape = (settings.batch, settings.prompt_len)
    prompt = {"input_ids": torch.zeros(shape, dtype=torch.int64)}
    if inference.padded:
        prompt["attention_mask"] = torch.ones(shape, dtype=torch.int64)
    return prompt


def _read(
    model: Any,
    inference: Inference,
    settings: Settings,
    make: Callable[..., dict[str, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    return make(model, batch=settings.batch, length=settings.prompt_len, padded=inference.padded)
