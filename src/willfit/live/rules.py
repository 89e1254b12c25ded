"""Combinations that the libraries or a GPU cannot run, each with its reason and what to do.

A rule looks at the facts and gives a sentence, or None where the combination works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from willfit.live.facts import FLASH, HALF, Facts
from willfit.live.kernels import kernel_is_available, kernel_is_of_sdpa, kernel_taken_by_sdpa
from willfit.scenario import Gpu


def flash_needs_ampere(facts: Facts) -> str | None:
    """flash-attn 2 has kernels for Ampere and later; torch's own flash kernel too."""
    if facts.attention not in FLASH:
        return None
    old = next((gpu for gpu in facts.gpus if gpu.sm < 80), None)
    if old is None:
        return None
    return (
        f"{facts.attention} has kernels for compute capability 8.0 and later, and {old.name} has "
        f"{old.sm / 10:.1f}: use attn='sdpa'{_kernels_of(facts, old)}"
    )


def _kernels_of(facts: Facts, gpu: Gpu) -> str:
    """In words, the kernels that SDPA would take there, and with which type a better one."""
    if facts.support.sdpa is False:
        return " where the class has it, which this one has not: leave attn out"
    taken = kernel_taken_by_sdpa(facts, gpu, facts.dtype)
    half = kernel_taken_by_sdpa(facts, gpu, facts.half)
    if taken is None:
        return ""
    better = f", with dtype='{facts.half.name}' {half}" if half not in (None, taken) else ""
    return f", which takes the {taken} kernel there{better}"


def flash_needs_16_bit(facts: Facts) -> str | None:
    """flash-attn has kernels of 16 bit only; transformers warns, and the first forward fails.

    Under a trainer's autocast queries are cast before the call (transformers 5.23
    integrations/flash_attention.py `get_target_dtype`), so float32 weights train.
    """
    if facts.attention not in FLASH or facts.dtype in HALF:
        return None
    training = facts.scenario.workload.training
    if training is not None and (training.bf16 or training.fp16):
        return None
    return (
        f"{facts.attention} computes in float16 or bfloat16 and the model would be loaded in "
        f"{facts.dtype.name}, where transformers only warns and the first forward pass fails: "
        f"use dtype='{facts.half.name}', or attn='sdpa', whose memory-efficient kernel takes "
        "float32"
    )


def class_has_flash(facts: Facts) -> str | None:
    """The modelling code must hand its attention over to the library."""
    if facts.attention not in FLASH or facts.support.flash is not False:
        return None
    instead = "attn='sdpa'" if facts.support.sdpa else "attn='eager', its only one"
    architecture = facts.scenario.model.architecture
    biased = architecture is not None and architecture.relative_bias
    why = " (a position bias is added to its scores, which the kernel does not take)"
    return (
        f"{facts.scenario.model.model_class} has no {facts.attention} path in transformers "
        f"{facts.scenario.stack.versions['transformers']}{why if biased else ''}: use {instead}"
    )


def class_has_sdpa(facts: Facts) -> str | None:
    """Naming SDPA for a class without it raises in transformers."""
    if facts.attention != "sdpa" or facts.support.sdpa is not False:
        return None
    if facts.asked.wants_better_transformer:
        return (
            f"BetterTransformer is SDPA in today's transformers, and "
            f"{facts.scenario.model.model_class} has no SDPA path: leave it out, attention runs "
            "eager"
        )
    flash = " or, from compute capability 8.0, 'flash_attention_2'" if facts.support.flash else ""
    return (
        f"{facts.scenario.model.model_class} has no SDPA path in transformers "
        f"{facts.scenario.stack.versions['transformers']}: use attn='eager'{flash}"
    )


def quantised_twice(facts: Facts) -> str | None:
    """A stored quantisation wins: transformers ignores the one that is given."""
    stored = facts.scenario.model.quantization
    if stored is None or facts.scenario.workload.loading.quantization is None:
        return None
    if facts.asked.quantize is None:
        return None
    return (
        f"{facts.scenario.model.id} is stored in {stored.method}, which stays whatever "
        f"quantize={facts.asked.quantize!r} says: leave it out, or name the original checkpoint"
    )


def bitsandbytes_is_there(facts: Facts) -> str | None:
    """int8 and 4 bit are bitsandbytes'."""
    if facts.scenario.workload.loading.quantization is None or facts.here.bitsandbytes:
        return None
    return (
        "quantize needs the package bitsandbytes, which is not installed: "
        "pip install bitsandbytes, or leave quantize out"
    )


def peft_is_there(facts: Facts) -> str | None:
    """Adapters are PEFT's."""
    if facts.asked.adapter is None or facts.here.peft:
        return None
    return "adapter needs the package peft, which is not installed: pip install peft"


Rule = Callable[[Facts], "str | None"]
RULES: Final[tuple[Rule, ...]] = (
    quantised_twice,
    bitsandbytes_is_there,
    peft_is_there,
    class_has_flash,
    class_has_sdpa,
    flash_needs_ampere,
    flash_needs_16_bit,
    kernel_is_of_sdpa,
    kernel_is_available,
)
"""In the order in which they are asked; the first sentence is what the user reads."""


def refusal(facts: Facts) -> str | None:
    """Why this combination cannot run, or None."""
    return next((why for rule in RULES if (why := rule(facts)) is not None), None)
