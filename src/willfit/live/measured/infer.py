"""Inference for real: one forward pass, or ``generate``, each phase read and then timed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from willfit.emitting.generation import generate_call
from willfit.errors import UnsupportedError
from willfit.formulas.inference.settings import fill_defaults
from willfit.live.meter import Meter
from willfit.scenario import Scenario

SERIES_STEP: Final = 32
"""Decoded tokens between two points of the series."""
TIMED: Final = 3
"""Times that a forward pass is timed; the median counts."""
OWN: Final = ("max_new_tokens", "do_sample")
"""Arguments of ``generate`` that a measurement sets itself."""
Series = list[tuple[int, int, int]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is generated."""

    batch: int
    prompt_len: int
    new_tokens: int
    padded: bool
    full_logits: bool
    one_pass: bool
    """Whether ``use_cache=False`` was asked for: one forward pass."""
    extra: Mapping[str, Any]
    """Further arguments of ``generate``: the cache's kind, the prompt's pieces."""


def asked_of(scenario: Scenario) -> Asked:
    """The scenario's inference; two new tokens at least, for the first comes with prefill."""
    inference = scenario.workload.inference
    assert inference is not None
    spec = scenario.model
    dtype = scenario.workload.loading.dtype or spec.stored_dtype
    filled = fill_defaults(spec.architecture, inference, dtype, scenario.stack)
    call = generate_call(scenario)
    given = call.arguments if call is not None else {}
    return Asked(
        batch=filled.batch,
        prompt_len=filled.prompt_len,
        new_tokens=max(filled.new_tokens, 2),
        padded=inference.padded,
        full_logits=inference.full_logits,
        one_pass=not inference.use_cache,
        extra={name: value for name, value in given.items() if name not in OWN},
    )


def run_inference(scenario: Scenario, model: Any, meter: Meter) -> tuple[dict[str, float], Series]:
    """Seconds by phase and the series of decoding; the meter has the readings.

    The run that is read is the first, with hooks; those that are timed come after it.
    """
    import torch

    inference = scenario.workload.inference
    assert inference is not None
    asked = asked_of(scenario)
    model.eval()
    with torch.no_grad(), sdpa(inference.sdpa_kernel):
        if asked.one_pass or not model.can_generate():
            return _forward(model, asked, meter), []
        series: Series = []
        inputs = _prompt(model, asked)
        # no token ends a text: ``min_new_tokens`` would do that too, with copies of the scores
        model.generation_config.eos_token_id = None
        with _reading(model, meter, series, asked):
            _generate(model, inputs, asked, asked.new_tokens)
        meter.mark("decode")
        meter.stop()
        return _timed(model, inputs, asked, meter), series


def pieces_of(asked: Asked) -> int:
    """Calls of the model that the prompt takes: one, or one a piece."""
    piece = asked.extra.get("prefill_chunk_size")
    return -(-asked.prompt_len // int(piece)) if piece else 1


@contextmanager
def sdpa(kernel: str | None) -> Iterator[None]:
    """``torch.nn.attention.sdpa_kernel`` of that one kernel, or torch's own choice."""
    if kernel is None:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    names = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "math": SDPBackend.MATH,
    }
    with sdpa_kernel([names[kernel]]):
        yield


def _prompt(model: Any, asked: Asked) -> dict[str, Any]:
    ids = random_ids(model, asked.batch, asked.prompt_len)
    return {"input_ids": ids, "attention_mask": mask_of(ids, padded=asked.padded, left=True)}


def random_ids(model: Any, batch: int, length: int) -> Any:
    """Token ids of the model's vocabulary, on its device."""
    import torch

    takes = getattr(model, "main_input_name", "input_ids")
    if takes != "input_ids":
        raise UnsupportedError(
            f"{type(model).__name__} takes {takes}, and measure gives random tokens: --task load "
            "measures its weights, 'willfit estimate' says the rest"
        )
    size = int(model.config.get_text_config().vocab_size)
    return torch.randint(3, size, (batch, length), device=model.device)


def mask_of(ids: Any, *, padded: bool, left: bool = False) -> Any:
    """Ones, with the last row half hidden where the batch is padded (its end, or its start)."""
    import torch

    mask = torch.ones_like(ids)
    if padded:
        half = ids.shape[1] // 2
        mask[-1, slice(None, half) if left else slice(-half, None)] = 0
    return mask


def _generate(model: Any, inputs: dict[str, Any], asked: Asked, new_tokens: int) -> None:
    model.generate(
        **inputs,
        **asked.extra,
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=0,
    )


@contextmanager
def _reading(model: Any, meter: Meter, series: Series, asked: Asked) -> Iterator[None]:
    """Hooks on the whole model: prefill ends with the call that has the prompt's last piece."""
    calls = 0
    pieces = pieces_of(asked)

    def enter(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if asked.full_logits:
            kwargs = {k: v for k, v in kwargs.items() if not k.endswith("logits_to_keep")}
        if calls == pieces:
            meter.mark("prefill")
        return args, kwargs

    def leave(*_: Any) -> None:
        nonlocal calls
        calls += 1
        tokens = calls - pieces + 1
        if meter.cuda and tokens > 1 and tokens % SERIES_STEP == 0:
            series.append((tokens, *meter.allocated_and_reserved()))

    hooks = [
        model.register_forward_pre_hook(_apart(enter, asked), with_kwargs=True),
        model.register_forward_hook(_apart(leave, asked)),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _apart(hook: Any, asked: Asked) -> Any:
    """The hook outside of what is compiled, as decoding is where the cache is static.

    Else the model is compiled twice: for the call in which something is read, and for the others.
    """
    if asked.extra.get("cache_implementation") is None:
        return hook
    import torch

    disable: Any = torch.compiler.disable
    return disable(hook)


def _timed(model: Any, inputs: dict[str, Any], asked: Asked, meter: Meter) -> dict[str, float]:
    """Seconds of prefill (``generate`` of one token) and of each further token."""
    prefill = _median(lambda: _generate(model, inputs, asked, 1), meter, TIMED)
    found = {"prefill": prefill, "prompt_tokens": float(asked.batch * asked.prompt_len)}
    if asked.new_tokens > 1:
        whole = _median(lambda: _generate(model, inputs, asked, asked.new_tokens), meter, 1)
        found |= _decoding(whole - prefill, asked)
    return found


def _decoding(spent: float, asked: Asked) -> dict[str, float]:
    """Seconds of a token; nothing where they drown in the noise of few small steps."""
    if spent <= 0:
        return {}
    token = spent / (asked.new_tokens - 1)
    return {"decode_token": token, "decode_tokens_per_second": asked.batch / token}


def _forward(model: Any, asked: Asked, meter: Meter) -> dict[str, float]:
    """A model without a cache: one pass."""
    ids = random_ids(model, asked.batch, asked.prompt_len)
    batch: dict[str, Any] = {"input_ids": ids}
    if asked.padded:
        batch["attention_mask"] = mask_of(ids, padded=True)
    if asked.one_pass:
        batch["use_cache"] = False
    model(**batch)
    meter.mark("forward")
    meter.stop()
    seconds = _median(lambda: model(**batch), meter, TIMED)
    return {"forward": seconds, "prompt_tokens": float(ids.numel())}


def _median(run: Any, meter: Meter, times: int) -> float:
    found = []
    for _ in range(times):
        meter.wait()
        started = time.perf_counter()
        run()
        meter.wait()
        found.append(time.perf_counter() - started)
    return sorted(found)[len(found) // 2]
