"""huggingface/peft ``method_comparison/MetaMathQA``: fine-tuning Llama-3.2-3B on an L40S.

Batch 4, AdamW, no checkpointing, no autocast, ``use_cache`` left on, a plain loop that keeps its
outputs. Counters are reserved memory over the run, and reserved and allocated memory at the end of
each of 5,000 steps; lengths of batches are not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import parse_dtype
from willfit.scenario import Loading, Lora, Machine, Scenario, Stack, Training, Workload
from willfit.scenario.stack import TESTED

ABOUT: Final = About(
    title="huggingface/peft, method comparison (MetaMathQA)",
    apart=lambda _, kind: kind.startswith("torch_memory_"),  # read between steps
    unknowns={
        "lengths of the batches": "longest, mean, 99th percentiles, longest of ten: each found once"
        " from `lora r32` and used for every method; a log-normal of the recorded mean (208.9)"
        " with the longest batch (692) has all of them within 4 %",
    },
    misses=(
        Miss(
            why="full fine-tuning reserves more than it allocates: optimizer states lie where the"
            " first step's activations were (a trace has that)",
            where=lambda row: not row["peft"],
            kind="torch_m",
            level="formula",
        ),
    ),
    notes=(
        "What is allocated at a step's end is weights, gradients, Adam's states, workspaces and the"
        " outputs (2·B·S·V of logits, K and V): all methods within 0.5 %.",
        "From 14 July 2026 (d787f51b) the script enters and leaves `disable_adapter()` before"
        " training: PEFT asks for every adapter gradient from then on, so LoRA-FA's frozen A trains"
        " (+10 %). AdaLoRA is traced by PEFT 0.20: since 0.21 its ranks keep a gradient. What is"
        " highest in prefix tuning with 200 tokens in 2026 (−4.5 %) is the evaluation, not traced.",
        "Since the cache is emptied every ten steps, a second batch of more than two thirds of the"
        " first's length reserves one more 4·B·S·V: float32 logits that fit no free block.",
    ),
)

MEAN: Final = 218
"""Padded tokens of the mean batch, from what is allocated at the end of ``lora r32``'s steps (row
14: 6,601.7 MiB less weights, gradients, states and workspaces, by 1.48 MiB a token of logits, K
and V). The mean sample has 208.9, which the script records."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Padded tokens of typical batches, by the level that they were found at."""

    longest: int
    """Longest batch of all: from the maximum of ``lora r32`` (row 14)."""
    long_step: int
    """99th percentile of the steps (row 14), whose cache was emptied after each."""
    step: int
    """Mean of the steps (row 14)."""
    ten: int
    """Mean of the longest batches of ten, one after the other of twenty that are sorted from long
    to short (row 111)."""
    long_ten: int
    """99th percentile of the longest batches of ten (row 111)."""


TRACED: Final = Lengths(longest=692, long_step=473, step=MEAN, ten=324, long_ten=572)
CLOSED: Final = Lengths(longest=738, long_step=525, step=250, ten=370, long_ten=638)
"""Those that make the formulas, which know nothing of what the allocator pads, reserve as much."""
MIDDLE: Final = 198
"""The eleventh of twenty sorted batches: the median sample."""
FIRST: Final = 2 * TRACED.ten - MIDDLE
"""The first of twenty."""
SPREAD: Final = 50
"""Half the distance between the two kinds of first batches that are run."""
SHORT: Final = 80
"""The last of them: the batch before the longest one."""
FIRST_STEP: Final = 450
"""The first step makes the optimizer's states."""

EMPTIED_EVERY_TEN_SINCE: Final = "2025-11-13"
"""Day of huggingface/peft pull request 2894: until then the cache was emptied after every step."""
ADAPTER_DISABLED_SINCE: Final = "2026-07-14"
"""Day of huggingface/peft d787f51b: the loss on Wikipedia before training is the base model's."""
OPTIMIZERS: Final = {"adamw": "adamw_torch", "lora-fa": "lorafa"}
"""Ours by the names of the script; it names no ``foreach`` or ``fused``."""
USUAL: Final = {"compile": False, "use_amp": False, "autocast_adapter_dtype": True}
"""Settings of the script that every published run has the same."""
BEFORE: Final = {"ADALORA": "0.20.0"}
"""Release of PEFT by method where later ones hold other tensors than were measured: since 0.21
(4ddb88b4) AdaLoRA's ``ranknum`` asks for a gradient."""
_PEAK: Final = "torch_max_memory_reserved_minus_init"
_LONG: Final = "torch_memory_reserved_end_of_step_99pct"
_AVERAGE: Final = "torch_memory_reserved_end_of_step_avg"
_HELD: Final = "torch_memory_allocated_end_of_step_avg"


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Each counter by a step of the length that it stands for."""
    obstacle = _obstacle(row) or _unusual(row)
    for entry in row["measured"]:
        kind = entry["kind"]
        found = _by_formula(row, kind)
        if obstacle is not None or found is None:
            yield NotExpressed(kind=kind, reason=obstacle or "a counter that is not known")
            continue
        length, reading = found
        yield Expressed(kind=kind, scenario=_scenario(row, length), reading=reading)


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Every method that PEFT has, by its own code: the maximum of a short run, typical steps."""
    obstacle = _unusual(row)
    readings = _READINGS[_emptied_every(row)]
    for entry in row["measured"]:
        kind = entry["kind"]
        reading = next((r for start, r in readings.items() if kind.startswith(start)), None)
        if obstacle is not None or reading is None:
            yield NotExpressed(kind=kind, reason=obstacle or "a counter that is not known")
            continue
        typical = STEPS if _emptied_every(row) == 1 else WINDOWS
        steps = PEAK if kind.startswith(_PEAK) else typical
        yield Expressed(kind=kind, scenario=_traced_scenario(row, steps), reading=reading)


def _unusual(row: PublishedRow) -> str | None:
    """Settings that the scenario does not have, or a release whose code was another."""
    config = row["train_config"]
    optimizer = config["optimizer_type"].lower()
    if optimizer not in OPTIMIZERS:
        return f"optimizer {optimizer} is not one of the trace's"
    for name, usual in USUAL.items():
        if config.get(name, usual) != usual:
            return f"{name} {config[name]}: the importer knows {usual} alone"
    return None


def _obstacle(row: PublishedRow) -> str | None:
    peft = row["peft"] or {}
    method = peft.get("peft_type")
    if method not in (None, "LORA"):
        return f"{method} has no closed formula: it needs the trace"
    if row["train_config"]["optimizer_type"].lower() != "adamw":
        return f"optimizer {row['train_config']['optimizer_type']} is not one of the formulas'"
    return None


def _emptied_every(row: PublishedRow) -> int:
    """Steps between two emptyings of the cache."""
    return 10 if row["created_at"] >= EMPTIED_EVERY_TEN_SINCE else 1


def _by_formula(row: PublishedRow, kind: str) -> tuple[int, Reading] | None:
    """Longest batch of the scenario for a counter, and what is read."""
    reserved = Reading(amount="reserved")
    step = replace(reserved, without=("load",))
    often = _emptied_every(row) == 1
    if kind.startswith(_PEAK):
        return CLOSED.longest, reserved
    if kind.startswith(_LONG):
        return CLOSED.long_step if often else CLOSED.long_ten, step
    if kind.startswith(_AVERAGE):
        return CLOSED.step if often else CLOSED.ten, step
    if kind.startswith(_HELD):
        return MEAN, Reading(moment="end_of_step")
    return None


def _scenario(row: PublishedRow, length: int) -> Scenario:
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
        max_length=length,
        padded=True,
        attn=config.get("attn_implementation"),
        gradient_checkpointing=bool(config.get("use_gc")),
        max_grad_norm=config["grad_norm_clip"],
    )
    return Scenario(
        model=published_model(row["model"]),
        workload=Workload(
            loading=Loading(dtype=parse_dtype(config.get("dtype", "bfloat16"))), training=training
        ),
        machine=Machine(gpus=(find_gpu("L40S"),)),
        stack=Stack(versions={**TESTED, **_versions(row)}),
    )


def _traced_scenario(row: PublishedRow, steps: tuple[int, ...]) -> Scenario:
    """The adapter as its config has it, but for AdaLoRA's ranks, which training found."""
    formula = _scenario(row, TRACED.longest)
    training = formula.workload.training
    assert training is not None
    config = {key: value for key, value in (row["peft"] or {}).items() if key != "rank_pattern"}
    traced = replace(
        training,
        optimizer=OPTIMIZERS[row["train_config"]["optimizer_type"].lower()],
        adapter_was_disabled=row["created_at"] >= ADAPTER_DISABLED_SINCE,
        lora=None,
        adapter_config=config or None,
        step_lengths=steps,
        empties_cache_every=2 if steps is WINDOWS else 1,
    )
    peft = BEFORE.get(config.get("peft_type", ""), TESTED["peft"])
    stack = Stack(versions={**TESTED, "peft": peft})
    return replace(formula, workload=replace(formula.workload, training=traced), stack=stack)


THIRDS: Final = (312, 301, 210, 204, 155, 149)
"""Means of the longest, middle and shortest third of all batches, each after one that is a little
longer, as they follow each other."""
PEAK: Final = (FIRST_STEP, SHORT, TRACED.longest)
"""Steps of a run whose largest is the run's: what lies between them leaves pieces that are not the
published run's, whose order is not known (prompt tuning +1.8 % after all of `WINDOWS`)."""
STEPS: Final = (FIRST_STEP, *THIRDS, TRACED.long_step, SHORT, TRACED.longest)
"""Steps of a run that emptied its cache after each."""
WINDOWS: Final = (
    FIRST_STEP, MEAN, FIRST - SPREAD, 319, MIDDLE, 190, FIRST + SPREAD, 337,
    TRACED.long_ten, 340, 120, SHORT, TRACED.longest,
)  # fmt: skip
"""Steps of a run that emptied its cache after ten, in pairs: the first and second tens of twenty.
The steps after a ten's second reserve nothing more. The longest batch follows the shortest of the
twenty before, on an emptied cache."""
_RESERVED: Final = Reading(amount="reserved", moment="end_of_step")
_READINGS: Final[Mapping[int, Mapping[str, Reading]]] = {
    1: {
        _PEAK: Reading(amount="reserved"),
        _LONG: replace(_RESERVED, ends=(7,)),
        _AVERAGE: replace(_RESERVED, ends=(2, 4, 6)),
        _HELD: Reading(moment="end_of_step", ends=(2, 4, 6)),
    },
    10: {
        _PEAK: Reading(amount="reserved"),
        _LONG: replace(_RESERVED, ends=(4,)),
        _AVERAGE: replace(_RESERVED, ends=(1, 2, 2, 3)),
        _HELD: Reading(moment="end_of_step", ends=(0,)),
    },
}
"""What each counter is read after."""


def _versions(row: PublishedRow) -> dict[str, str]:
    return {
        library: row["versions"][f"{library}-version"]
        for library in ("torch", "transformers", "peft", "bitsandbytes")
        if row["versions"].get(f"{library}-version")
    }
