"""huggingface/peft ``method_comparison/MetaMathQA``: fine-tuning Llama-3.2-3B on an L40S.

Batch 4, AdamW, no checkpointing, no autocast, ``use_cache`` left on, a plain loop that keeps its
outputs. The counter is reserved memory; the longest batch is not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from benchmarks.ledger.row import Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16
from willfit.results import Estimate
from willfit.scenario import Loading, Lora, Machine, Scenario, Stack, Training, Workload
from willfit.scenario.stack import TESTED
from willfit.sources.resolve import resolve

LONGEST_BATCH: Final = 738
"""Tokens of the longest padded batch: the one unknown (≤ 768), found once from ``lora r32``
(reserved 21,260 MiB, with whatever the allocator pads) and used for every other row."""

_PEAK: Final = "torch_max_memory_reserved_minus_init(2MiB)_whole_run"


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The maximum of reserved memory over the run; the other counters need the length of a step."""
    for entry in row["measured"]:
        kind = entry["kind"]
        if kind != _PEAK:
            yield NotExpressed(
                kind=kind, reason="averages over steps whose padded lengths are not recorded"
            )
            continue
        reason = _obstacle(row)
        if reason is not None:
            yield NotExpressed(kind=kind, reason=reason)
            continue
        yield Expressed(kind=kind, scenario=_scenario(row), reading=_reserved)


def _obstacle(row: PublishedRow) -> str | None:
    peft = row["peft"] or {}
    method = peft.get("peft_type")
    if method not in (None, "LORA"):
        return f"{method} has no closed formula; it needs the trace"
    if row["train_config"]["optimizer_type"] not in ("AdamW", "adamw"):
        return f"optimizer {row['train_config']['optimizer_type']} is not one of the formulas'"
    return None


def _scenario(row: PublishedRow) -> Scenario:
    peft: dict[str, Any] = row["peft"] or {}
    lora = None
    if peft:
        lora = Lora(
            r=peft["r"],
            target_modules=tuple(sorted(peft["target_modules"])),
            dropout=peft["lora_dropout"],
            use_dora=bool(peft.get("use_dora")),
        )
    config = row["train_config"]
    training = Training(
        method="lora" if lora else "full",
        trainer="loop",
        lora=lora,
        optimizer="adamw_torch",
        micro_batch_size=config["batch_size"],
        max_length=LONGEST_BATCH,
        padded=True,
        gradient_checkpointing=False,
        max_grad_norm=config["grad_norm_clip"],
    )
    return Scenario(
        model=resolve(row["model"]),
        workload=Workload(loading=Loading(dtype=BFLOAT16), training=training),
        machine=Machine(gpus=(find_gpu("L40S"),)),
        stack=Stack(versions={**TESTED, **_versions(row)}),
    )


def _versions(row: PublishedRow) -> dict[str, str]:
    return {
        library: row["versions"][f"{library}-version"]
        for library in ("torch", "transformers", "peft", "bitsandbytes")
    }


def _reserved(estimate: Estimate) -> int:
    return estimate.binding.peak.reserved_bytes
