"""huggingface/peft ``method_comparison/MetaMathQA``: fine-tuning Llama-3.2-3B on an L40S.

Batch 4, AdamW, no checkpointing, no autocast, ``use_cache`` left on, a plain loop that keeps its
outputs. The counter is reserved memory; the longest batch is not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16
from willfit.scenario import Loading, Lora, Machine, Scenario, Stack, Training, Workload
from willfit.scenario.stack import TESTED
from willfit.sources.resolve import resolve

ABOUT: Final = About(title="huggingface/peft, method comparison (MetaMathQA)")
LONGEST_BATCH: Final = 738
"""Tokens of the longest padded batch: the one unknown (≤ 768), found once from ``lora r32``
(reserved 21,260 MiB, with whatever the allocator pads) and used for every other row."""

LONGEST_TRACED: Final = 692
"""The same by trace, which knows what the allocator pads: found once from ``lora r32``."""
STEP_LENGTHS: Final = (450, 80, LONGEST_TRACED)
"""Padded tokens of the traced steps. Buckets of 20 batches run from long to short, so the longest
batch follows the shortest of the bucket before, on an emptied cache; optimizer states were made in
the first step, the longest of its bucket."""
ADAPTER_DISABLED_SINCE: Final = "2026-07-14"
"""Day of huggingface/peft d787f51b: the loss on Wikipedia before training is the base model's."""
OPTIMIZERS: Final = {"adamw": "adamw_torch", "lora-fa": "lorafa"}
"""Ours by the names of the script; it names no ``foreach`` or ``fused``."""
USUAL: Final = {
    "dtype": "bfloat16", "compile": False, "use_amp": False, "autocast_adapter_dtype": True
}  # fmt: skip
"""Settings of the script that every published run has the same."""
BEFORE: Final = {"ADALORA": "0.20.0"}
"""Release of PEFT by method where later ones hold other tensors than were measured: since 0.21
(4ddb88b4) AdaLoRA's ``ranknum`` asks for a gradient."""
_PEAK: Final = "torch_max_memory_reserved_minus_init(2MiB)_whole_run"


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The maximum of reserved memory over the run; the other counters need the length of a step."""
    return _expressed(row, _obstacle(row), _scenario(row))


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The same for every method that PEFT has, by its own code as it is installed."""
    return _expressed(row, _obstacle_to_trace(row), _traced_scenario(row))


def _obstacle_to_trace(row: PublishedRow) -> str | None:
    """Settings that the scenario does not have, or a release whose code was another."""
    config = row["train_config"]
    optimizer = config["optimizer_type"].lower()
    if optimizer not in OPTIMIZERS:
        return f"optimizer {optimizer} is not one of the trace's"
    for name, usual in USUAL.items():
        if config.get(name, usual) != usual:
            return f"{name} {config[name]}: the importer knows {usual} alone"
    return None


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
        yield Expressed(kind=kind, scenario=scenario, reading=Reading(amount="reserved"))


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
    traced = replace(
        training,
        optimizer=OPTIMIZERS.get(row["train_config"]["optimizer_type"].lower()),
        attn=row["train_config"].get("attn_implementation"),
        gradient_checkpointing=bool(row["train_config"].get("use_gc")),
        adapter_was_disabled=row["created_at"] >= ADAPTER_DISABLED_SINCE,
        lora=None,
        adapter_config=config or None,
        max_length=LONGEST_TRACED,
        step_lengths=STEP_LENGTHS,
        empties_cache=True,
    )
    peft = BEFORE.get(config.get("peft_type", ""), TESTED["peft"])
    stack = Stack(versions={**TESTED, "peft": peft})
    return replace(formula, workload=replace(formula.workload, training=traced), stack=stack)


def _versions(row: PublishedRow) -> dict[str, str]:
    return {
        library: row["versions"][f"{library}-version"]
        for library in ("torch", "transformers", "peft", "bitsandbytes")
    }
