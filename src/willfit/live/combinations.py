"""Every combination that the guides name, and whether it works on a machine: by the same rules.

A combination is the arguments of `load` and nothing else; judging it loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from willfit.devices import parse_machine
from willfit.errors import WillfitError
from willfit.live.asked import Asked
from willfit.live.here import Here
from willfit.live.planned import Planned, plan_load
from willfit.units import format_bytes

MACHINES: Final = ("T4", "T4x2", "A100")
LLAMA: Final = "meta-llama/Meta-Llama-3-8B"
OPT: Final = "facebook/opt-350m"
BLOOM: Final = "bigscience/bloom-3b"
BERT: Final = "google-bert/bert-base-uncased"
FA2: Final = "flash_attention_2"
GUIDE_4BIT: Final[Mapping[int | str, str]] = {0: "600MB", 1: "1GB"}
GUIDE_8BIT: Final[Mapping[int | str, str]] = {0: "1GB", 1: "2GB"}


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One row."""

    id: str
    group: str
    title: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `load` besides the model."""
    flash_attn: bool = True
    """Whether the package flash-attn is installed."""
    hub_kernels: bool = False
    """Whether the package kernels is."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What becomes of a combination on a machine."""

    works: bool
    reason: str
    """Peak and budget where it works, else why it does not and what to do."""
    notes: tuple[str, ...] = ()


def judge(combination: Combination, machine: str) -> Judged:
    """Whether `load` would load it as it is given on a machine that has these GPUs."""
    gpus = parse_machine(machine).gpus
    here = Here(
        gpus=gpus,
        in_use_bytes=(0,) * len(gpus),
        flash_attn=combination.flash_attn,
        hub_kernels=combination.hub_kernels,
    )
    asked = Asked(model=combination.model, **{"context": 512, **combination.settings})
    try:
        planned = plan_load(asked, here, as_given=True)
    except WillfitError as error:
        return Judged(works=False, reason=str(error))
    return _judged(planned, _nearest(asked, here) if not planned.choice.fits else "")


def _nearest(asked: Asked, here: Here) -> str:
    """What `load` would change so that it fits."""
    found = plan_load(asked, here).choice
    if not found.fits:
        return "and no change that load may make is enough"
    return f"load changes that to {', '.join(found.changes)}"


def _judged(planned: Planned, nearest: str) -> Judged:
    estimate = planned.choice.estimate
    if estimate.refused is not None:
        return Judged(works=False, reason=estimate.refused, notes=planned.notes)
    binding = estimate.binding
    peak, budget = binding.peak.device_bytes, binding.budget_bytes or 0
    amounts = f"{format_bytes(peak)} of {format_bytes(budget)}"
    if not planned.choice.fits:
        return Judged(works=False, reason=f"{amounts}: too much, {nearest}", notes=planned.notes)
    if estimate.verdict != "fits":
        amounts += f" ({estimate.verdict})"
    return Judged(works=True, reason=amounts, notes=planned.notes)


def _flash(id: str, title: str, **settings: Any) -> Combination:
    return Combination(
        id=id, group="FlashAttention-2", title=title, model=LLAMA,
        settings={"attn": FA2, **settings},
    )  # fmt: skip


def _bits(id: str, title: str, model: str = BLOOM, **settings: Any) -> Combination:
    return Combination(id=id, group="bitsandbytes", title=title, model=model, settings=settings)


def _kernel(id: str, title: str, **settings: Any) -> Combination:
    return Combination(
        id=id, group="The flash kernel of SDPA, forced", title=title, model=OPT,
        settings={"sdpa_kernel": "flash", **settings},
    )  # fmt: skip


def _encoder(id: str, title: str, model: str = BERT, **settings: Any) -> Combination:
    return Combination(
        id=id, group="Encoders and BetterTransformer", title=title, model=model,
        settings=settings,
    )  # fmt: skip


COMBINATIONS: Final[tuple[Combination, ...]] = (
    _flash("fa2-fp16", "in float16", dtype="float16"),
    _flash("fa2-bf16", "in bfloat16", dtype="bfloat16"),
    _flash("fa2-fp32", "in float32", dtype="float32"),
    _flash("fa2-int8", "with LLM.int8", quantize="int8"),
    _flash("fa2-nf4", "with 4 bit, NF4", quantize="nf4"),
    _flash("fa2-fp4", "with 4 bit, FP4", quantize="fp4"),
    _flash("fa2-lora", "with a PEFT adapter to train", task="train", adapter={"r": 8}),
    _flash("fa2-lora-int8", "with LLM.int8 and an adapter to train", quantize="int8",
           task="train", adapter={"r": 8}),
    _flash("fa2-lora-nf4", "with NF4 and an adapter to train", quantize="nf4", task="train",
           adapter={"r": 8}),
    _flash("fa2-lora-inference", "with NF4 and an adapter, inference", quantize="nf4",
           adapter={"r": 8}),
    Combination(id="fa2-missing", group="FlashAttention-2", model=LLAMA, flash_attn=False,
                title="flash-attn not installed", settings={"attn": FA2, "quantize": "nf4"}),
    Combination(id="fa2-hub", group="FlashAttention-2", model=LLAMA, flash_attn=False,
                hub_kernels=True, title="flash-attn not installed, kernels is",
                settings={"attn": FA2, "quantize": "nf4"}),
    Combination(id="fa2-t5", group="FlashAttention-2", model="google-t5/t5-large",
                title="a class without it", settings={"attn": FA2, "dtype": "bfloat16"}),
    _bits("fp4", "FP4", quantize="fp4"),
    _bits("nf4", "NF4", quantize="nf4"),
    _bits("nf4-double", "NF4, double quantisation", quantize="nf4-double"),
    _bits("int8", "LLM.int8", quantize="int8"),
    _bits("fp4-guide", "FP4, the guide's max_memory", quantize="fp4", max_memory=GUIDE_4BIT),
    _bits("int8-guide", "LLM.int8, the guide's max_memory", quantize="int8",
          max_memory=GUIDE_8BIT),
    _bits("fp4-several", "FP4, max_memory that works", quantize="fp4",
          max_memory={0: "1822MB", 1: "1GB"}),
    _bits("int8-several", "LLM.int8, max_memory that works", quantize="int8",
          max_memory={0: "2215MB", 1: "2GB"}),
    _bits("int8-offload", "LLM.int8, the rest on the host", quantize="int8",
          max_memory={0: "2GB", "cpu": "20GB"}),
    _bits("fp16-offload", "float16, the rest on the host", dtype="float16",
          max_memory={0: "2GB", "cpu": "20GB"}),
    _bits("t5-11b-int8", "T5-11b in LLM.int8", model="google-t5/t5-11b", quantize="int8"),
    _bits("t5-11b-int8-fp16", "T5-11b in LLM.int8, float16", model="google-t5/t5-11b",
          quantize="int8", dtype="float16"),
    _bits("t5-11b-int8-bf16", "T5-11b in LLM.int8, bfloat16", model="google-t5/t5-11b",
          quantize="int8", dtype="bfloat16"),
    _bits("gemma-2-9b-int8", "Gemma-2-9b in LLM.int8", model="google/gemma-2-9b",
          quantize="int8", dtype="bfloat16"),
    _bits("llama-3-8b-int8", "Llama-3-8B in LLM.int8", model=LLAMA, quantize="int8",
          dtype="float16"),
    _kernel("sdpa-flash", "in float16", dtype="float16"),
    _kernel("sdpa-flash-fp32", "in float32", dtype="float32"),
    _kernel("sdpa-flash-int8", "with LLM.int8", dtype="float16", quantize="int8"),
    _kernel("sdpa-flash-nf4", "with 4 bit, NF4", dtype="float16", quantize="nf4"),
    _kernel("sdpa-flash-fp4", "with 4 bit, FP4", dtype="float16", quantize="fp4"),
    _kernel("sdpa-flash-padded", "with a padded batch", dtype="float16", padded=True,
            batch_size=4),
    Combination(id="sdpa-flash-eager", group="The flash kernel of SDPA, forced",
                model="google/gemma-2-9b", title="a class without SDPA",
                settings={"sdpa_kernel": "flash", "quantize": "int8"}),
    _encoder("encoder-sdpa", "BERT, SDPA", attn="sdpa"),
    _encoder("encoder-fa2", "BERT, FlashAttention-2", attn=FA2, dtype="float16"),
    _encoder("encoder-bettertransformer", "BERT, BetterTransformer", better_transformer=True),
    _encoder("decoder-bettertransformer", "OPT, BetterTransformer", model=OPT,
             attn="to_bettertransformer"),
    _encoder("bloom-bettertransformer", "BLOOM, BetterTransformer", model=BLOOM,
             better_transformer=True),
    _encoder("audio-bettertransformer", "Whisper, BetterTransformer",
             model="openai/whisper-small", better_transformer=True, context=448),
    _encoder("image-bettertransformer", "ViT, BetterTransformer",
             model="google/vit-base-patch16-224", better_transformer=True),
    _encoder("bettertransformer-nf4", "OPT, BetterTransformer and NF4", model=OPT,
             better_transformer=True, quantize="nf4"),
)  # fmt: skip
"""The mission's combinations, in the order of the guide."""
