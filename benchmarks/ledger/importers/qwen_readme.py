"""Qwen's README of 2023: generation, the int8 cache, and fine-tuning by length.

The models' code came with the checkpoints. Their shapes are Qwen1.5's, as whose class they are
built; the tool that read the memory is not stated, and sums are over GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow, RanOut
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT16
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED
from willfit.scenario.workload import Strategy

ABOUT: Final = About(
    title="Qwen's README (2023): generation and fine-tuning",
    stack="other",
    unknowns={
        "tool": "of fine-tuning not stated: nominal is what NVML sees, the low end torch's own "
        "reserved memory; of generation torch's allocated peak is taken",
        "prompt": "one token where none is stated",
        "release": "formulas of transformers 4.37 (4.32 to 4.37 are asked for)",
    },
    misses=(
        Miss(
            why="batch 4 lies 7 GB above the line through batches 1, 16, 32: the source's own",
            ids=("qwen_readme:94",),
        ),
        Miss(
            why="about two tables of vocabulary by hidden size more than weights, adapters, their "
            "states and logits, at every length: the checkpoint's own code, which is not read here",
            where=lambda row: row["task"] == "train" and row["n_gpu"] == 1,
        ),
        Miss(
            why="ZeRO's buckets and what the allocator keeps on each GPU, growing with the length; "
            "near 80 GB on each GPU the allocator flushes",
            where=lambda row: row["task"] == "train" and row["n_gpu"] > 1,
        ),
    ),
    notes=(
        "Trainable copies of the embedding and the head cost 12 bytes a parameter: they are in the "
        "model's bfloat16, 2 each for copy and gradient, 4 for Adam's states, 4 inside the step. "
        "Adapters without such copies are taken in float32, as PEFT 0.5 makes them.",
    ),
)
_GPU: Final = find_gpu("A100-SXM4-80GB")
CONTEXT_BYTES: Final = 1_225_000_000
"""CUDA context and kernels of torch 2.0 on an A100, as optimum's GPTQ table shows them."""
_STACK: Final = Stack(versions={**TESTED, "transformers": "4.37.2"})
_NAME: Final = re.compile(r"Qwen/Qwen-(?P<size>[\d.]+B)(?:-Chat)?(?:-Int(?P<bits>\d))?$")
_TARGETS: Final = {
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "c_proj": ("o_proj", "down_proj"),
    "w1": ("up_proj",),
    "w2": ("gate_proj",),
}
"""Qwen's names as Qwen1.5's; one adapter on the joined q, k, v is three here (A of r more rows)."""
_SAVED: Final = {"wte": "embed_tokens", "lm_head": "lm_head"}


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed | RanOut]:
    """By task."""
    found = _NAME.match(str(row["model"]))
    for entry in row["measured"]:
        kind = str(entry["kind"])
        if found is None:
            yield NotExpressed(kind=kind, reason="the name of the model is not understood")
        elif "KV cache=Yes" in str(row["notes"]):
            yield NotExpressed(kind=kind, reason="K and V in int8 by the checkpoint's own kernels")
        elif row["task"] == "train":
            yield _training(row, kind, _model(found))
        else:
            yield from _inference(row, entry, _model(found))


def _model(found: re.Match[str]) -> ModelSpec:
    config: dict[str, Any] = {
        **published_model(f"Qwen/Qwen1.5-{found['size']}").config,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    }
    if found["bits"]:
        bits = int(found["bits"])
        config["torch_dtype"] = "float16"
        config["quantization_config"] = {
            "quant_method": "gptq", "bits": bits, "group_size": 128, "desc_act": False,
            "sym": True, "backend": "exllama_v1" if bits == 4 else "cuda_old",
        }  # fmt: skip
    return from_config(found[0], config)


def _inference(
    row: PublishedRow, entry: dict[str, Any], model: ModelSpec
) -> Iterator[Expressed | RanOut]:
    """A prompt of a token; what is unstated of the cache pages' is "short"."""
    new_tokens = int(row["new_tokens"])
    flash = "flash_attention_2" in str(row["attn"])
    scenario = Scenario(
        model=model,
        workload=Workload(
            loading=Loading(dtype=FLOAT16 if model.quantization else BFLOAT16),
            inference=Inference(
                batch_size=int(row["batch"]),
                context_len=new_tokens + 1,
                max_new_tokens=new_tokens,
                attn="flash_attention_2" if flash else "sdpa",
            ),
        ),
        machine=Machine(gpus=(_GPU,) * int(row["n_gpu"])),
        stack=_STACK,
    )
    if entry.get("bytes") is None:
        yield RanOut(scenario=scenario)
    else:
        yield Expressed(kind=str(entry["kind"]), scenario=scenario, reading=Reading(gpus="sum"))


def _training(row: PublishedRow, kind: str, model: ModelSpec) -> Expressed | NotExpressed:
    peft = row["peft"] or {}
    if "zero3" in str(row["parallelism"]) and int(row["n_gpu"]) == 1:
        return NotExpressed(
            kind=kind, reason="DeepSpeed on one GPU: its float32 copies have no formula there"
        )
    if model.quantization is not None:
        return NotExpressed(kind=kind, reason="adapters on a GPTQ checkpoint have no formula")
    targets = tuple(n for t in peft.get("target_modules") or () for n in _TARGETS.get(t, ()))
    saved = tuple(_SAVED[name] for name in peft.get("modules_to_save") or () if name in _SAVED)
    lora = Lora(
        r=int(peft.get("r") or 8),
        target_modules=targets,
        dropout=0.05,
        modules_to_save=saved,
        dtype=BFLOAT16 if saved else None,
    )
    training = Training(
        method="lora" if peft else "full",
        lora=lora if peft else None,
        optimizer="adamw_torch",
        micro_batch_size=int(row["batch"]),
        gradient_accumulation_steps=int(row["grad_accum"]),
        max_length=int(row["seq"]),
        gradient_checkpointing=bool(row["grad_ckpt"]),
        use_reentrant=True,
        bf16=True,
        attn="flash_attention_2",
    )
    strategy: Strategy | None = None
    if "zero3" in str(row["parallelism"]):
        strategy = "zero3"
    elif "zero2" in str(row["parallelism"]):
        strategy = "zero2"
    return Expressed(
        kind=kind,
        scenario=Scenario(
            model=model,
            workload=Workload(
                loading=Loading(dtype=BFLOAT16, strategy=strategy), training=training
            ),
            machine=Machine(gpus=(_GPU,) * int(row["n_gpu"])),
            stack=_STACK,
        ),
        reading=Reading(amount="reserved", gpus="sum", plus_bytes=CONTEXT_BYTES),
        unknown_bytes=(-CONTEXT_BYTES * int(row["n_gpu"]), 0),
    )
