"""Inference of the real code: one forward pass, or prefill and decoding as ``generate`` does."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from willfit.formulas.inference.settings import Settings
from willfit.scenario.workload import Inference
from willfit.trace.caches import cache_tensors, make_cache
from willfit.trace.inputs import encoder_batch, forward_batch
from willfit.trace.session import Session

DECODED = 3
"""Decoding steps that are run; later ones differ by the length of the cache alone."""


def run_inference(session: Session, inference: Inference, settings: Settings) -> list[int]:
    """A forward pass of a model without a cache, else prefill and the first decoding steps.

    Returns where each decoding step begins in the recording's events, and where the last ends.
    """
    starts: list[int] = []
    model: Any = session.model
    model.eval()
    recorder = session.recorder
    with session.running(), torch.no_grad():
        if not _generates(model):
            recorder.phase = "forward"
            outputs = model(
                **forward_batch(
                    model,
                    batch=settings.batch,
                    length=settings.prompt_len,
                    padded=inference.padded,
                )
            )
            recorder.mark([outputs.get("logits")], "logits")
            return starts
        recorder.phase = "prefill"
        if model.config.is_encoder_decoder:
            return _translate(session, inference, settings)
        ids = torch.zeros((settings.batch, settings.prompt_len), dtype=torch.int64)
        keep = _keep(model, inference)
        mask = _mask(inference, settings.batch, settings.prompt_len)
        cache = make_cache(model, inference, settings, session.mark_cache)
        own = {} if cache is None else {"past_key_values": cache}
        outputs = model(input_ids=ids, use_cache=True, **own, **keep, **mask)
        del own
        token, cache = _next_token(outputs, session)
        del outputs
        recorder.phase = "decode"
        for step in range(min(settings.new_tokens, DECODED)):
            starts.append(len(recorder.recording.events))
            mask = _mask(inference, settings.batch, settings.prompt_len + step + 1)
            outputs = model(input_ids=token, past_key_values=cache, use_cache=True, **keep, **mask)
            token, cache = _next_token(outputs, session)
            del outputs
        starts.append(len(recorder.recording.events))
    return starts


def _next_token(outputs: Any, session: Session) -> tuple[torch.Tensor, Any]:
    """The most likely token, (B, 1), as ``generate`` finds it in float32; and the cache."""
    recorder = session.recorder
    cache = outputs.get("past_key_values")
    recorder.mark([outputs.get("logits")], "logits")
    recorder.mark(cache_tensors(cache), "kv_cache")
    scores = outputs["logits"][:, -1].to(copy=True, dtype=torch.float32)
    return scores.argmax(-1)[:, None], cache


def _translate(session: Session, inference: Inference, settings: Settings) -> list[int]:
    """An encoder's pass over its input, then its decoder's first steps."""
    model: Any = session.model
    recorder = session.recorder
    read = encoder_batch(
        model, batch=settings.batch, length=settings.prompt_len, padded=inference.padded
    )
    mask = {name: value for name, value in read.items() if name == "attention_mask"}
    hidden = model.get_encoder()(**read, return_dict=True)
    token = torch.zeros((settings.batch, 1), dtype=torch.int64)
    cache: Any = make_cache(model, inference, settings, session.mark_cache)
    starts: list[int] = []
    recorder.phase = "decode"
    for _ in range(min(settings.new_tokens, DECODED)):
        starts.append(len(recorder.recording.events))
        outputs = model(
            encoder_outputs=hidden,
            decoder_input_ids=token,
            past_key_values=cache,
            use_cache=True,
            **mask,
        )
        token, cache = _next_token(outputs, session)
        del outputs
    starts.append(len(recorder.recording.events))
    return starts


def _keep(model: Any, inference: Inference) -> dict[str, int]:
    """``generate`` asks for the last position's logits where the class can do that."""
    names = inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in names and not inference.full_logits else {}


def _generates(model: Any) -> bool:
    """Whether the class has a language model's head and ``generate``."""
    return bool(getattr(model, "can_generate", lambda: False)())


def _mask(inference: Inference, batch: int, length: int) -> dict[str, torch.Tensor]:
    return (
        {"attention_mask": torch.ones((batch, length), dtype=torch.int64)}
        if inference.padded
        else {}
    )
