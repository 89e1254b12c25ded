"""huggingface/blog ``4bit-transformers-bitsandbytes``: what fits a free T4, and what does not.

``SFTTrainer`` of May 2023 on LLaMA with LoRA of rank 64, rows packed to the length, batch 1: each
cell says whether the run ended out of memory, and no amount.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.row import About, NotExpressed, PublishedRow, RanOut, Result
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT16
from willfit.scenario import (
    Loading,
    Lora,
    Machine,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED

ABOUT: Final = About(
    title="huggingface/blog, QLoRA and LLM.int8 on a T4: out of memory or not",
    unknowns={
        "fp16 autocast": "float32 without it (the script's default) to fp16 with it",
        "prepare_model_for_kbit_training": "TRL called it; the low end is without",
    },
    notes=(
        "Wrong fits: LLM.int8 with checkpointing at 1024 tokens (oom_boundary:1) ran out and is "
        "said to fit, 9.1 GiB of a T4. Not the mechanism: what 8-bit products keep beside "
        "checkpoints that cannot free it (12.0 GiB), float32 tables, autocast. Both LLM.int8 cells "
        "agree with runs without checkpointing (512 tokens 14.5 GiB, 1024 tokens 23.8), but the "
        "page says that it was on, so the row stays as it is.",
        "Cells that ran have no amount, and a verdict alone is not recorded for them. By formula "
        "all four of them fit.",
    ),
)
_STACK: Final = Stack(
    versions={
        **TESTED, "torch": "2.0.1", "transformers": "4.30.0", "peft": "0.3.0",
        "bitsandbytes": "0.39.0", "trl": "0.4.2",
    }
)  # fmt: skip


def express(row: PublishedRow) -> Iterator[Result]:
    """The cells that ended out of memory; those that ran say nothing that could be compared."""
    if row.get("oom"):
        yield RanOut(
            scenario=scenario(row),
            low_scenario=scenario(row, fp16=True, prepared=False),
            high_scenario=scenario(row, fp16=False),
        )
    for entry in row.get("measured") or ():
        yield NotExpressed(kind=str(entry.get("kind")), reason="cells of this source are verdicts")


def express_by_trace(row: PublishedRow) -> Iterator[Result]:
    """The same by the installed releases."""
    for result in express(row):
        if isinstance(result, RanOut):
            traced = replace(result.scenario, stack=Stack())
            yield RanOut(scenario=traced)
        else:
            yield result


def scenario(row: PublishedRow, *, fp16: bool = True, prepared: bool = True) -> Scenario:
    """The run on a T4."""
    quant = str(row["quant"])
    lower = quant.lower()
    scheme = "int8" if "int8" in lower else "fp4" if "fp4" in lower else "nf4"
    quantization = Quantization(
        scheme=scheme,  # type: ignore[arg-type]  # one of the three by construction
        compute_dtype=None if scheme == "int8" else BFLOAT16 if "bf16" in lower else FLOAT16,
        double_quant="nested" in lower or "double" in lower,
    )
    training = Training(
        method="qlora",
        lora=Lora(r=row["peft"]["r"], dropout=0.1),
        optimizer="adamw_torch",
        micro_batch_size=row["batch"],
        gradient_accumulation_steps=row["grad_accum"],
        max_length=row["seq"],
        gradient_checkpointing=bool(row["grad_ckpt"]),
        use_reentrant=True,
        prepare_kbit=prepared,
        fp16=fp16 or None,
        attn="eager",
    )
    return Scenario(
        model=published_model(row["model"]),
        workload=Workload(
            loading=Loading(dtype=FLOAT16, quantization=quantization if quant else None),
            training=training,
        ),
        machine=Machine(gpus=(find_gpu("T4"),)),
        stack=_STACK,
    )
