"""Settings at random, the same ones for a seed: what no measurement has seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from willfit.devices import parse_machine
from willfit.dtypes import DTYPES, FLOAT32
from willfit.scenario import Inference, Loading, Quantization, Training, Workload
from willfit.scenario.model import ModelSpec
from willfit.sources.resolve import resolve


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One setting."""

    model: str
    name: str
    """What was drawn, in the order of the choices."""
    workload: Workload
    gpus: str


Draw = Callable[[int, int], Iterator[Drawn]]
"""So many settings of a kind, for a seed."""

METHODS: Final = ("full", "lora", "qlora")
STRATEGIES: Final = (None, "ddp", "fsdp", "zero1", "zero2", "zero3")
MIXED: Final = ("fp16", "bf16", None)
TYPES: Final = (None, "float16", "float32")
OPTIMIZERS: Final = ("adamw_torch", "adamw_8bit", "adafactor", "sgd")
TRAINERS: Final = ("transformers", "liger", "trl", "loop")
"""``liger`` is the Trainer with ``use_liger_kernel``."""
TRAINED: Final = "HuggingFaceTB/SmolLM2-135M"
"""The model whose trainings are varied."""


def trainings(count: int, seed: int = 0) -> Iterator[Drawn]:
    """Each strategy on two T4s with each type, optimizer, trainer and kind of mixed precision."""
    checkpointing = (False, True)
    everything = list(
        product(METHODS, STRATEGIES, MIXED, TYPES, checkpointing, OPTIMIZERS, TRAINERS)
    )
    for chosen in random.Random(seed).sample(everything, count):
        method, strategy, mixed, dtype, checkpoints, optimizer, trainer = chosen
        loading = Loading(
            dtype=DTYPES[dtype] if dtype else None,
            strategy=strategy,  # type: ignore[arg-type]  # one of STRATEGIES
            quantization=Quantization(scheme="nf4") if method == "qlora" else None,
        )
        training = Training(
            method=method,  # type: ignore[arg-type]  # one of METHODS
            trainer="transformers" if trainer == "liger" else trainer,  # type: ignore[arg-type]
            use_liger_kernel=trainer == "liger",
            optimizer=optimizer,
            gradient_checkpointing=checkpoints,
            fp16=mixed == "fp16" or None,
            bf16=mixed == "bf16" or None,
            micro_batch_size=2,
            max_length=512,
        )
        words = (*map(str, chosen[:4]), "checkpoints" if checkpoints else "whole", *chosen[5:])
        yield Drawn(
            model=TRAINED,
            name=", ".join(map(str, words)),
            workload=Workload(loading=loading, training=training),
            gpus="T4x2" if strategy else "T4",
        )


RUN: Final = (
    "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen3-0.6B", "google/gemma-3-270m",
    "google/gemma-3-1b-it", "google/gemma-2-2b", "meta-llama/Llama-3.2-1B", "microsoft/phi-2",
    "openai-community/gpt2", "facebook/opt-125m", "facebook/opt-350m", "EleutherAI/pythia-160m",
    "EleutherAI/gpt-neo-125m", "bigscience/bloom-560m", "google-bert/bert-base-cased",
    "FacebookAI/roberta-base", "distilbert/distilbert-base-uncased",
    "answerdotai/ModernBERT-base", "google-t5/t5-small", "google/flan-t5-base",
    "facebook/bart-base", "ibm-granite/granite-4.0-h-350m", "tiiuae/Falcon-H1-0.5B-Base",
    "state-spaces/mamba-130m-hf", "LiquidAI/LFM2-350M",
)  # fmt: skip
"""Small models of every architecture that has formulas."""
CARDS: Final = ("V100-32GB", "T4", "A100", "H100")
LENGTHS: Final = (64, 200, 512, 1000, 2048, 4000)
LONGEST_SCAN: Final = 512
"""Tokens of Mamba-1, which a trace goes through one by one."""


def inferences(count: int, seed: int = 0) -> Iterator[Drawn]:
    """Models × cards × types × quantisation × attention × caches × batches × lengths."""
    chance = random.Random(seed)
    found = 0
    while found < count:
        drawn = _inference(chance)
        if drawn is not None:
            found += 1
            yield drawn


def _inference(chance: random.Random) -> Drawn | None:
    """One, or None where what was drawn cannot run."""
    pick: Callable[[tuple[Any, ...]], Any] = chance.choice
    model, card = pick(RUN), pick(CARDS)
    scheme = pick((None, None, None, "int8", "nf4"))
    compute = pick((None, "float16", "bfloat16")) if scheme == "nf4" else None
    dtype, labels = pick((None, "float16", "bfloat16", "float32")), pick((None, None, None, 3))
    attn = pick((None, None, None, "eager", "flash_attention_2"))
    inference = Inference(
        batch_size=pick((1, 1, 2, 4, 8)),
        context_len=pick(LENGTHS),
        padded=pick((False, True)),
        attn=attn,
        cache=pick(("dynamic",) * 4 + ("static",)),
        use_cache=pick((True,) * 5 + (False,)),
        max_new_tokens=pick((None, None, 8)),
        prefill_chunk_size=pick((None,) * 5 + (256,)),
    )
    loading = Loading(
        dtype=DTYPES[dtype] if dtype else None,
        quantization=Quantization(
            scheme=scheme,
            double_quant=pick((False, True)),
            compute_dtype=DTYPES[compute] if compute else None,
        )
        if scheme
        else None,
        num_labels=labels,
        auto_class="AutoModelForSequenceClassification" if labels else None,
    )
    if not _runs(model, card, loading, inference):
        return None
    words = (
        card, scheme, compute, dtype, labels and f"{labels} labels", attn,
        f"{inference.batch_size} × {inference.context_len}", inference.padded and "padded",
        inference.cache, not inference.use_cache and "no cache",
        inference.max_new_tokens and f"{inference.max_new_tokens} new",
        inference.prefill_chunk_size and f"by {inference.prefill_chunk_size}",
    )  # fmt: skip
    return Drawn(
        model=model,
        name=", ".join(str(word) for word in words if word),
        workload=Workload(loading=loading, inference=inference),
        gpus=card,
    )


def _runs(model: str, card: str, loading: Loading, inference: Inference) -> bool:
    """Whether the libraries would run it, and a trace in seconds."""
    found = resolve(model)
    architecture = found.architecture
    assert architecture is not None
    assert inference.context_len is not None
    kind, length = str(found.config.get("model_type")), inference.context_len
    if inference.attn == "flash_attention_2" and (
        parse_machine(card).gpus[0].sm < 80
        or kind in ("t5", "mamba", "gpt_neo", "bloom")
        or _wide(found, loading)
    ):
        return False
    if inference.prefill_chunk_size and (
        architecture.encoder_layers
        or not architecture.is_decoder
        or not inference.use_cache
        or kind == "mamba"
    ):
        return False
    if kind == "mamba" and (
        loading.quantization or length > LONGEST_SCAN or inference.cache == "static"
    ):
        return False
    return length <= (architecture.max_context or length)


def _wide(found: ModelSpec, loading: Loading) -> bool:
    return (loading.dtype or found.stored_dtype) is FLOAT32
