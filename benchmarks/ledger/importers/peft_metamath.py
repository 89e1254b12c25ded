"""huggingface/peft ``method_comparison/MetaMathQA``: fine-tuning Llama-3.2-3B on an L40S.

Batch 4, AdamW, no checkpointing, no autocast, ``use_cache`` left on, a plain loop that keeps its
outputs. The counter is reserved memory; the longest batch is not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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

LONGEST_TRACED: Final = 641
"""The same by trace, which knows what the allocator pads: nearest to ``lora r32`` (+0.4 %)."""
_PEAK: Final = "torch_max_memory_reserved_minus_init(2MiB)_whole_run"


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The maximum of reserved memory over the run; the other counters need the length of a step."""
    return _expressed(row, _obstacle(row), _scenario(row))


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The same for every method that PEFT has, by its own code as it is installed."""
    optimizer = row["train_config"]["optimizer_type"]
    known = optimizer.lower() == "adamw"
    obstacle = None if known else f"optimizer {optimizer} is not one of the trace's"
    return _expressed(row, obstacle, _traced_scenario(row))


def _expressed(
    row: PublishedRow, obstacle: str | None, scenario: Scenario
) -> Iterator[Expressed | NotExpressed]:
    for entry in row["measured"]:
        kind = entry["kind"]
        if kind != _PEAK:
            yield NotExpressed(
                kind=kind, reason="averages over steps whose padded lengths are not recorded"
            )
            continue
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        yield Expressed(kind=kind, scenario=scenario, reading=_reserved)


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
    if peft.get("peft_type") == "LORA":
        lora = Lora(
            r=peft["r"],
            target_modules=tuple(sorted(peft["target_modules"])),
            dropout=peft["lora_dropout"],
            use_dora=bool(peft.get("use_dora")),
        )
    config = row["train_config"]
    training = Training(
        method="lora" if peft else "full",
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


def _traced_scenario(row: PublishedRow) -> Scenario:
    """The adapter as its config has it, but for AdaLoRA's ranks, which training found."""
    formula = _scenario(row)
    training = formula.workload.training
    assert training is not None
    config = {key: value for key, value in (row["peft"] or {}).items() if key != "rank_pattern"}
    traced = replace(training, lora=None, adapter_config=config or None, max_length=LONGEST_TRACED)
    return replace(formula, workload=replace(formula.workload, training=traced), stack=Stack())


def _versions(row: PublishedRow) -> dict[str, str]:
    return {
        library: row["versions"][f"{library}-version"]
        for library in ("torch", "transformers", "peft", "bitsandbytes")
    }


def _reserved(estimate: Estimate) -> int:
    return estimate.binding.peak.reserved_bytes
