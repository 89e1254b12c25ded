"""unslothai/unsloth README: peaks of Hugging Face and of Unsloth side by side (late 2023).

LLaMA-Factory's table has a length; the other rows are of data sets with ``max_seq_length`` 2048 and
no more: their longest row is a range. Hugging Face's rows are plain transformers with PEFT and TRL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np

from benchmarks.ledger.growth import Steps, shape_of
from benchmarks.ledger.models import published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow, Result
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
    title="unslothai/unsloth README (Unsloth's kernels, and Hugging Face beside them)",
    stack="other",
    unknowns={
        "longest row": "not stated: 64 tokens to 2048 (1304 for Alpaca, by litgpt's table); a few "
        "dozen steps were run, whose longest need not be the data's",
        "order of the rows": "nothing kept, to the most that the allocator keeps in four orders of "
        "lengths between the shortest and the longest (simulated)",
        "Unsloth's loss": "in chunks, to whole logits",
        "rank": "16, by the notebooks that the README links",
        "prepare_model_for_kbit_training": "called, as TRL of 2023 did",
    },
    misses=(
        Miss(
            why="method of the figure not said (reserved, or nvidia-smi with its context); eager "
            "attention's S² tensors of many lengths are kept too, which the simulated steps lack; "
            "the same rows take 7 GiB on a T4 and 18 on an A100, so the steps differ",
        ),
    ),
)
_STACK: Final = Stack(
    versions={
        **TESTED, "torch": "2.1.0", "transformers": "4.36.2", "peft": "0.7.1",
        "bitsandbytes": "0.41.3",
    }
)  # fmt: skip
_LONGEST: Final = {"Alpaca": 1304, "LAION": 512, "OASST": 2048, "SlimOrca": 2048}
"""Tokens that are taken: Alpaca's longest row by Llama's tokenizer is in litgpt's tables."""
_SHORTEST: Final = 64
_MOST: Final = 2048
_STEPS, _ORDERS = 60, 4
"""Steps of the linked notebooks; orders of lengths that are tried."""


def express(row: PublishedRow) -> Iterator[Result]:
    """The peak, from short rows to the longest that the settings let through."""
    for entry in row["measured"]:
        kind = str(entry["kind"])
        if not entry.get("bytes"):
            yield NotExpressed(kind=kind, reason="no figure")
            continue
        low, taken, high = _lengths(row)
        own = "Unsloth" in str(row["notes"])
        yield Expressed(
            kind=kind,
            scenario=_scenario(row, taken, chunked=own),
            low_scenario=_scenario(row, low, chunked=own),
            high_scenario=_scenario(row, high, chunked=False),
            reading=Reading(amount="reserved"),
            unknown_bytes=(0, _kept(row, high)),
            card_known=False,
        )


def _kept(row: PublishedRow, longest: int) -> int:
    """The most that the allocator keeps of other lengths, in some orders of them; bytes."""
    if str(row["seq"]).isdigit():
        return 0
    return _most_kept(_named(row), longest, row["batch"])


@lru_cache
def _most_kept(model: str, longest: int, batch: int) -> int:
    steps = Steps(shape=shape_of(published_model(model)), checkpointing=True)
    orders = (np.random.default_rng(seed) for seed in range(_ORDERS))
    return max(
        steps.growth(tuple(batch * int(n) for n in order.integers(_SHORTEST, longest + 1, _STEPS)))
        for order in orders
    )


def _lengths(row: PublishedRow) -> tuple[int, int, int]:
    seq = str(row["seq"])
    if seq.isdigit():
        return int(seq) // 4, int(seq), int(seq)
    taken = next((n for name, n in _LONGEST.items() if name in seq), _MOST)
    return _SHORTEST, taken, min(_MOST, max(taken, 1304))


def _scenario(row: PublishedRow, length: int, *, chunked: bool) -> Scenario:
    t4 = "T4" in str(row["gpu"])
    half = FLOAT16 if t4 else BFLOAT16
    quantization = None
    if row["quant"]:
        quantization = Quantization(scheme="nf4", double_quant=True, compute_dtype=half)
    rank = (row["peft"] or {}).get("r")
    training = Training(
        method="qlora" if quantization else "lora",
        lora=Lora(r=rank if isinstance(rank, int) else 16, target_modules=("all-linear",)),
        optimizer=row["optimizer"] or "adamw_torch",
        micro_batch_size=row["batch"],
        gradient_accumulation_steps=row["grad_accum"] or 1,
        max_length=length,
        padded=row["batch"] > 1,
        gradient_checkpointing=bool(row["grad_ckpt"]),
        use_reentrant=True,
        prepare_kbit=bool(quantization) and not chunked,
        bf16=None if t4 else True,
        fp16=True if t4 else None,
        attn=_attention(row),
        use_liger_kernel=chunked,
    )
    return Scenario(
        model=published_model(_named(row)),
        workload=Workload(
            loading=Loading(dtype=half, quantization=quantization), training=training
        ),
        machine=Machine(gpus=(find_gpu("T4" if t4 else "A100-SXM4-40GB"),)),
        stack=_STACK,
    )


def _named(row: PublishedRow) -> str:
    """CodeLlama's files are named with ``-hf``."""
    name = str(row["model"])
    return f"{name}-hf" if name.startswith("codellama/") and not name.endswith("-hf") else name


def _attention(row: PublishedRow) -> str:
    given = str(row["attn"])
    return {"fa2": "flash_attention_2", "eager": "eager"}.get(given, "sdpa")


def express_by_trace(row: PublishedRow) -> Iterator[Result]:
    """Hugging Face's rows by the installed releases; Unsloth's patches are no class."""
    for result in express(row):
        if isinstance(result, Expressed):
            if "Unsloth" in str(row["notes"]):
                yield NotExpressed(kind=result.kind, reason="Unsloth's kernels are not traced")
                continue
            ends = (result.scenario, result.low_scenario, result.high_scenario)
            nominal, low, high = (replace(s, stack=Stack()) if s else None for s in ends)
            assert nominal is not None
            yield replace(result, scenario=nominal, low_scenario=low, high_scenario=high)
        else:
            yield result
