"""Whether the kernels of SDPA take the calls of a run, and what a forced one would end with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from willfit.dtypes import DType
from willfit.formulas.attention import AttentionShape, choose_kernel, kernel_refusal
from willfit.formulas.inference.activations import attention_shape
from willfit.formulas.inference.settings import fill_defaults
from willfit.live.facts import Facts
from willfit.scenario import Gpu, Inference, Training
from willfit.scenario.model import Architecture, LayerGroup


def kernel_is_of_sdpa(facts: Facts) -> str | None:
    """``sdpa_kernel`` chooses among the kernels of SDPA; other attention never asks it."""
    if facts.work.sdpa_kernel is None or facts.attention == "sdpa":
        return None
    why = "" if facts.work.attn else f", as {facts.scenario.model.model_class} has no SDPA path"
    return (
        f"sdpa_kernel='{facts.work.sdpa_kernel}' chooses a kernel of SDPA and the attention is "
        f"{facts.attention}{why}, so it would change nothing: leave it out"
    )


def kernel_is_available(facts: Facts) -> str | None:
    """A forced kernel that does not take a call leaves none: torch 2.13 attention.cpp raises.

    Every shape of the run is asked: the prompt, and each later token.
    """
    kernel = facts.work.sdpa_kernel
    if kernel is None or facts.attention != "sdpa":
        return None
    if not facts.gpus and facts.here.gpus == () and kernel in ("efficient", "cudnn"):
        return (
            f"sdpa_kernel='{kernel}' is a kernel of CUDA, and on the CPU torch has flash and math "
            "alone: leave it out, or name the GPU that it is meant for, such as gpu='A100'"
        )
    for gpu in facts.gpus:
        for words, shape in attention_calls(facts):
            why = kernel_refusal(kernel, shape, gpu, facts.scenario.stack)
            if why is not None:
                return (
                    f"sdpa_kernel='{kernel}' on {gpu.name} would end with RuntimeError: No "
                    f"available kernel. Aborting execution. ({words}: {why}): "
                    f"{_instead(facts, gpu)}"
                )
    return None


def _instead(facts: Facts, gpu: Gpu) -> str:
    """The nearest settings under which every call would be taken."""
    asked, left_out = facts.work.sdpa_kernel or "", "leave it out and torch takes one that works"
    if _takes_all(facts, asked, facts.half, gpu):
        return f"use dtype='{facts.half.name}', or leave sdpa_kernel out"
    for dtype, words in ((facts.dtype, ""), (facts.half, f"dtype='{facts.half.name}' and ")):
        for other in ("flash", "efficient", "cudnn"):
            if _takes_all(facts, other, dtype, gpu):
                return f"use {words}sdpa_kernel='{other}', or {left_out}"
    return "leave it out and torch takes the math kernel"


def _takes_all(facts: Facts, kernel: str, dtype: DType, gpu: Gpu) -> bool:
    shapes = (replace(shape, dtype=dtype) for _, shape in attention_calls(facts))
    stack = facts.scenario.stack
    return all(kernel_refusal(kernel, shape, gpu, stack) is None for shape in shapes)


def kernel_taken_by_sdpa(facts: Facts, gpu: Gpu, dtype: DType) -> str | None:
    """The kernel that SDPA takes for the prompt there; None where the calls are not known."""
    first = next(iter(attention_calls(facts)), None)
    if first is None:
        return None
    stack = facts.scenario.stack
    shape = replace(first[1], dtype=dtype)
    return choose_kernel(shape, implementation="sdpa", gpu=gpu, stack=stack).name


def attention_calls(facts: Facts) -> Iterator[tuple[str, AttentionShape]]:
    """The attention calls of the run that differ, in words and shapes."""
    architecture, work = facts.scenario.model.architecture, facts.work
    if architecture is None:
        return
    inference = work if isinstance(work, Inference) else Inference(
        batch_size=work.micro_batch_size or 1, context_len=work.max_length, padded=work.padded
    )  # fmt: skip
    settings = fill_defaults(architecture, inference, facts.dtype, facts.scenario.stack)
    for group in (*architecture.layers, *architecture.encoder_layers):
        yield from _of_layer(
            group, settings.dtype, settings.batch, settings.prompt_len, settings.context_len,
            masked=_mask_words(architecture, padded=inference.padded),
            training=isinstance(work, Training), decodes=architecture.is_decoder,
        )  # fmt: skip


def _mask_words(architecture: Architecture, *, padded: bool) -> str:
    """What every call carries as a mask; empty where it carries none."""
    if padded:
        return " with a padding mask"
    return " with a position bias as its mask" if architecture.relative_bias else ""


def _of_layer(
    group: LayerGroup, dtype: DType, batch: int, prompt: int, context: int, *,
    masked: str, training: bool, decodes: bool,
) -> Iterator[tuple[str, AttentionShape]]:  # fmt: skip
    attention = group.attention
    if attention is None:
        return
    window = attention.window is not None and prompt > attention.window
    shorter = " in a window, so with a mask" if window and not masked else ""
    words = f"{prompt} tokens in {dtype.name}{masked}{shorter}"
    yield (
        words,
        attention_shape(
            attention, dtype, batch=batch, q_len=prompt, kv_len=prompt,
            masked=bool(masked) or window, training=training,
        ),
    )  # fmt: skip
    if decodes and not training:
        yield (
            f"one new token in {dtype.name}",
            attention_shape(
                attention, dtype, batch=batch, q_len=1, kv_len=context, masked=bool(masked)
            ),
        )  # fmt: skip
