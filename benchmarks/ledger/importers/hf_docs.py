"""Figures printed in documentation of transformers, PEFT and accelerate.

Expressed are the BERT-large series (Trainer, AdamW, 512 tokens, a V100 whose context the series
itself measures: 1343 MiB) and OctoCoder, which has StarCoder's shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.sources.heads import with_auto_class
from willfit.sources.resolve import resolve
from willfit.units import MIB

_V100: Final = find_gpu("V100-16GB")
_A100: Final = find_gpu("A100-SXM4-80GB")
ABOUT: Final = About(title="Figures in documentation of transformers, PEFT, accelerate")
_CONTEXT_BYTES: Final = 1343 * MIB
"""The series' own first figure, on that GPU and with that release."""
_PROMPT: Final = (20, 60)
"""OctoCoder's example: about 20 tokens, 60 new ones."""


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The two series that say enough; of the others what is missing."""
    for entry in row["measured"]:
        kind, model = entry["kind"], str(row["model"])
        if model.startswith("bert-large-uncased") and row["task"] in ("load", "train"):
            yield Expressed(
                kind=kind,
                scenario=_bert(row),
                reading=Reading(amount="reserved", plus_bytes=_CONTEXT_BYTES),
            )
        elif model.startswith("bigcode/octocoder"):
            yield Expressed(kind=kind, scenario=_octocoder(row), reading=Reading())
        else:
            yield NotExpressed(kind=kind, reason=_missing(row))


def _missing(row: PublishedRow) -> str:
    if row["task"] == "context":
        return "a CUDA context alone: an input of the series"
    if row["tier"] == "C" and row["task"] == "inference":
        return "a device counter with a context that is not recorded (torch 1.4)"
    if row["n_gpu"] > 1:
        return "rounded to 0.1 GB or more, on several GPUs with settings not recorded"
    return "batch, length or types not recorded"


def _bert(row: PublishedRow) -> Scenario:
    model = with_auto_class(
        resolve("google-bert/bert-large-uncased"), "AutoModelForSequenceClassification", 2
    )
    work: dict[str, Any] = {}
    if row["task"] == "train":
        half = row["dtype"] == "fp16 amp"
        work["training"] = Training(
            method="full",
            optimizer="adamw_hf",
            micro_batch_size=row["batch"],
            gradient_accumulation_steps=row["grad_accum"],
            max_length=row["seq"],
            gradient_checkpointing=row["grad_ckpt"],
            use_reentrant=True,
            fp16=half or None,
            attn="eager",
        )
    return Scenario(
        model=model,
        workload=Workload(loading=Loading(dtype=FLOAT32, num_labels=2), **work),
        machine=Machine(gpus=(_V100,)),
    )


def _octocoder(row: PublishedRow) -> Scenario:
    quantization = None
    if row["quant"]:
        eight = row["quant"].startswith("bnb-8bit")
        quantization = Quantization(
            scheme="int8" if eight else "fp4", compute_dtype=None if eight else FLOAT16
        )
    prompt, new = _PROMPT
    return Scenario(
        model=_renamed(resolve("bigcode/starcoder"), "bigcode/octocoder"),
        workload=Workload(
            loading=Loading(dtype=BFLOAT16, quantization=quantization),
            inference=Inference(context_len=prompt + new, max_new_tokens=new, attn=row["attn"]),
        ),
        machine=Machine(gpus=(_A100,)),
    )


def _renamed(model: ModelSpec, name: str) -> ModelSpec:
    return replace(model, id=name)
