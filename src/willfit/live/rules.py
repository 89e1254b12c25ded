"""Combinations that the libraries or a GPU cannot run, each with its reason and what to do.

A rule looks at the facts and gives a sentence, or None where the combination works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from willfit.dtypes import BFLOAT16, FLOAT16, DType
from willfit.formulas.attention import AttentionShape, choose_kernel, kernel_refusal
from willfit.formulas.inference.activations import attention_shape
from willfit.formulas.inference.settings import fill_defaults
from willfit.formulas.weights import loading_dtype
from willfit.live.asked import Asked
from willfit.live.classes import Support
from willfit.live.here import Here
from willfit.scenario import Gpu, Inference, Scenario, Training
from willfit.scenario.model import Architecture, LayerGroup

HALF: Final = (FLOAT16, BFLOAT16)
FLASH: Final = ("flash_attention_2", "flash_attention_3", "flash_attention_4")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules judge."""

    asked: Asked
    scenario: Scenario
    support: Support
    here: Here

    @property
    def dtype(self) -> DType:
        """Type that unquantised weights are loaded in."""
        scenario = self.scenario
        return loading_dtype(scenario.model, scenario.workload.loading, scenario.stack)[0]

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs planned for; none on a machine without."""
        return self.scenario.machine.gpus if self.scenario.machine is not None else ()

    @property
    def work(self) -> Inference | Training:
        """What is done with the model; loading alone counts as inference."""
        workload = self.scenario.workload
        return workload.training or workload.inference or Inference()

    @property
    def attention(self) -> str:
        """The implementation: that given, else SDPA where the class has it."""
        given = (self.work.attn or "").strip().lower().replace("-", "_")
        return given or ("eager" if self.support.sdpa is False else "sdpa")

    @property
    def has_encoder(self) -> bool:
        """Whether some of it reads all positions at once: BERT, ViT, T5, Whisper."""
        architecture = self.scenario.model.architecture
        if architecture is None:
            return not self.scenario.model.model_class.endswith(("ForCausalLM", "LMHeadModel"))
        return not architecture.is_decoder or bool(architecture.encoder_layers)

    @property
    def half(self) -> DType:
        """The 16-bit type that these GPUs compute in: bfloat16 since compute capability 8.0."""
        old = any(gpu.sm < 80 for gpu in self.gpus)
        return FLOAT16 if old or self.scenario.model.stored_dtype is FLOAT16 else BFLOAT16


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
    taken = _sdpa_kernel(facts, gpu, facts.dtype)
    half = _sdpa_kernel(facts, gpu, facts.half)
    if taken is None:
        return ""
    better = f", with dtype='{facts.half.name}' {half}" if half not in (None, taken) else ""
    return f", which takes the {taken} kernel there{better}"


def _sdpa_kernel(facts: Facts, gpu: Gpu, dtype: DType) -> str | None:
    first = next(iter(attention_calls(facts)), None)
    if first is None:
        return None
    stack = facts.scenario.stack
    shape = replace(first[1], dtype=dtype)
    return choose_kernel(shape, implementation="sdpa", gpu=gpu, stack=stack).name


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
