"""huggingface/trl, branch ``benchmark-sft-moe`` (April 2026): SFTTrainer over many H100s.

Packed rows of exactly the context length, batch 1, bfloat16 autocast, checkpointing, fused AdamW;
FSDP2 by accelerate, context parallel splits a row over ranks. The counter is the device's, sampled
every 15 to 30 seconds, the largest over the GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT32
from willfit.scenario import Loading, Machine, Scenario, Stack, Training, Workload
from willfit.scenario.stack import TESTED
from willfit.units import MIB

_NCCL: Final = 1485 * MIB
"""What NCCL takes on an H100 once a collective ran: 0.55 GiB of context become 2.0
(stas00/ml-engineering, debug/pytorch.md)."""
_ATTENTION: Final = {
    "sdpa": "sdpa", "FA2": "flash_attention_2", "flash_attention_2": "flash_attention_2",
    "FA3": "flash_attention_3",
}  # fmt: skip

ABOUT: Final = About(
    title="huggingface/trl, SFT benchmark on many GPUs",
    unknowns={
        "NCCL": (
            "What its communicators hold is not recorded: 1.45 GiB, as on another H100; the ends "
            "are none of it and twice as much (two communicators, for data and context parallel)."
        ),
    },
    misses=(
        Miss(
            level="trace",
            why="A rank is replayed on a device without end, and what all ranks share is added by "
            "formula: cached memory that a full card gives back counts (decision 6).",
        ),
        Miss(
            where=lambda row: _tokens(row) <= 4096,
            why="At 4,096 tokens a rank the device holds 18 to 19 GiB, which no moment of the step "
            "has (weights, states, root, logits and their gradients are 13): the counter is the "
            "whole run's, and 15.0 GiB is the whole model in float32, as rank 0 has it before "
            "FSDP2 distributes it.",
        ),
    ),
    notes=(
        "Three pairs of rows (8,192 and 16,384 tokens a rank) lie 18.0, 18.1 and 18.1 GiB apart: "
        "2.36 MB a token, 14 bytes a logit and the checkpointed inputs. So the half-precision "
        "logits outlive the loss, as a plain loop's do; this version has no fused head.",
        "Context parallel is expressed as the tokens that one rank has.",
    ),
)


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Dense models over FSDP2."""
    return _expressed(row)


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The same of one rank; what ranks share is by formula."""
    return _expressed(row)


def _expressed(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    obstacle = _obstacle(row)
    for entry in row["measured"]:
        kind = entry["kind"]
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        yield Expressed(
            kind=kind,
            scenario=_scenario(row),
            reading=Reading(amount="device", plus_bytes=_NCCL),
            unknown_bytes=(-_NCCL, _NCCL),
            card_known=False,
        )


def _degree(parallel: dict[str, Any], name: str) -> int:
    return int(parallel.get(name) or 1)


def _tokens(row: PublishedRow) -> int:
    """Of a rank."""
    return int(row["seq"]) // _degree(row["parallelism"], "cp")


def _obstacle(row: PublishedRow) -> str | None:
    parallel = row["parallelism"]
    if "A3B" in row["model"] or "A22B" in row["model"]:
        return "experts by a fork of transformers with patched kernels and expert parallel"
    if _degree(parallel, "sp") > 1:
        return "Ulysses sequence parallel under DeepSpeed, whose buffers are not recorded"
    if _degree(parallel, "tp") > 1 or _degree(parallel, "ep") > 1:
        return "tensor and expert parallel training have no formula"
    backend = f"{parallel.get('backend') or ''} {parallel.get('config') or ''}".lower()
    if "fsdp2" not in backend:
        return "no more than the backend's name is recorded of DeepSpeed's settings"
    if not isinstance(row["n_gpu"], int) or row["attn"] not in _ATTENTION:
        return "number of GPUs or attention not recorded"
    return None


def _scenario(row: PublishedRow) -> Scenario:
    training = Training(
        method="full",
        trainer="loop",
        optimizer="adamw_torch_fused",
        micro_batch_size=row["batch"],
        max_length=_tokens(row),
        gradient_accumulation_steps=row["grad_accum"] or 1,
        gradient_checkpointing=bool(row["grad_ckpt"]),
        use_reentrant=False,
        bf16=True,
        attn=_ATTENTION[row["attn"]],
    )
    return Scenario(
        model=published_model(row["model"]),
        workload=Workload(loading=Loading(dtype=FLOAT32, strategy="fsdp"), training=training),
        machine=Machine(gpus=(find_gpu("H100"),) * row["n_gpu"]),
        stack=Stack(versions=TESTED, alloc_conf="expandable_segments:True"),
    )
