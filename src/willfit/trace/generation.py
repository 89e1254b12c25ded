"""The library's own ``generate``, run on fake tensors for its first steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import transformers

from willfit.errors import UnsupportedError
from willfit.trace.caches import cache_tensors
from willfit.trace.cuda.flash_by_name import is_imported_by_name
from willfit.trace.cuda.kernels import replaced
from willfit.trace.masks import nothing_hidden
from willfit.trace.recorder import Recorder

DECODED = 3
"""Decoding steps that are run; later ones differ by the length of the cache alone."""


class Decoding(NamedTuple):
    """Where in a recording's events decoding is, and how much of it there would be."""

    starts: tuple[int, ...]
    """Where each step that was run begins, and where the last ends."""
    steps: int
    """Steps of the whole job."""


class _Enough(BaseException):
    """As many steps were seen as are needed."""


def generate(
    model: Any,
    recorder: Recorder,
    inputs: Mapping[str, torch.Tensor],
    *,
    cache: Any = None,
    new_tokens: int,
    masked: bool,
    full_logits: bool = False,
    chunks: tuple[int | None, int] = (None, 1),
) -> Decoding:
    """Prefill and the first steps of greedy ``model.generate``.

    The first new token is prefill's, so n tokens take n − 1 steps, of which at least one is run; an
    encoder–decoder model's decoder starts from nothing and takes n, the first of which is unlike
    the others. ``cache``: instead of the one that it would make. ``masked``: whether the given mask
    hides anything, which a fake tensor cannot say. ``chunks``: ``prefill_chunk_size``, and how
    many calls it makes of prefill.
    """
    prefill = 0 if model.config.is_encoder_decoder else 1
    steps = max(new_tokens - prefill, 1)
    wanted = min(steps, DECODED + 1 - prefill)
    library: Any = transformers.generation
    plain = library.GenerationMixin.generate  # Whisper's own reads its output
    chunk, before = chunks if prefill else (None, 0)
    attention = getattr(model.config, "_attn_implementation", None)
    by_name = attention == "flash_attention_2" and is_imported_by_name()
    if by_name and masked:
        raise UnsupportedError(
            "the trace does not know what this release of transformers does with padding before "
            "flash_attention_2: leave --trace out"
        )
    calls = _Calls(recorder, before, wanted, full_logits=full_logits, without_mask=by_name)
    with ExitStack() as stack:
        for hook in (
            model.register_forward_pre_hook(calls.enter, with_kwargs=True),
            model.register_forward_hook(calls.leave),
        ):
            stack.callback(hook.remove)
        rows = [
            *_decoding_on_a_gpu(library.GenerationMixin),
            *([] if masked else nothing_hidden()),
        ]
        stack.enter_context(replaced(rows))
        start = {} if prefill else {"decoder_start_token_id": 0}
        try:
            plain(
                model,
                **inputs,
                **start,
                **({} if cache is None else {"past_key_values": cache}),
                **({} if chunk is None else {"prefill_chunk_size": chunk}),
                max_new_tokens=max(new_tokens, 1 + prefill),
                do_sample=False,
                num_beams=1,
                use_cache=True,
                pad_token_id=0,
            )
        except _Enough:
            pass
        else:
            calls.starts.append(len(recorder.recording.events))
    return Decoding(tuple(calls.starts[before:]), steps)


class _Calls:
    """Hooks on the whole model's calls: which phase it is, what the outputs hold, when to end."""

    def __init__(
        self,
        recorder: Recorder,
        prefill: int,
        steps: int,
        *,
        full_logits: bool,
        without_mask: bool = False,
    ) -> None:
        self._recorder = recorder
        self._prefill = prefill
        self._wanted = prefill + steps
        self._full_logits = full_logits
        self._without_mask = without_mask
        self.starts: list[int] = []
        """Number of events before each call."""

    def enter(
        self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Note a call; with ``full_logits`` it is asked for the logits of every position."""
        recorder = self._recorder
        self.starts.append(len(recorder.recording.events))
        if len(self.starts) > self._wanted:
            raise _Enough
        if len(self.starts) > max(self._prefill, 1):  # a decoder's first call is prefill's too
            recorder.phase = "decode"
        if self._full_logits:
            kwargs = {k: v for k, v in kwargs.items() if not k.endswith("logits_to_keep")}
        if self._without_mask and "attention_mask" in kwargs:
            kwargs["attention_mask"] = None  # of ones: looked at, and dropped
        return args, kwargs

    def leave(self, _: Any, __: Any, outputs: Any) -> None:
        """Say what the outputs hold."""
        self._recorder.mark([outputs.get("logits")], "logits")
        for name in ("past_key_values", "cache_params"):
            self._recorder.mark(cache_tensors(outputs.get(name)), "kv_cache")


def _decoding_on_a_gpu(library: Any) -> list[tuple[Any, str, Any]]:
    """Experts of a token are copied side by side while decoding, which a CPU does not do.

    transformers 5 generation/utils.py `_optimize_model_for_decode`.
    """
    name = "_optimize_model_for_decode"
    return [(library, name, _batched_experts)] if hasattr(library, name) else []


@contextmanager
def _batched_experts(model: Any) -> Iterator[None]:
    before: dict[str, str] = model.get_experts_implementation()
    batched = {part: _BATCHED.get(how, how) for part, how in before.items()}
    if batched == before:
        yield
        return
    model.set_experts_implementation(batched)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


_BATCHED = {"grouped_mm": "batched_mm"}
