"""linkedin/Liger-Kernel, ``benchmark/data/all_benchmark_data.csv``: peak memory of single kernels.

Liger's against torch's or Hugging Face's; forward, backward or both. The counter is
``max_memory_allocated`` of one call among ten, with the inputs and modules that the script holds,
gradients of the calls before included. The scripts themselves run, on fake tensors, with the code
of the release that followed the measurement. MB are 2²⁰ bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from benchmarks.ledger.liger import peak_bytes
from benchmarks.ledger.row import About, Computed, Miss, NotExpressed, PublishedRow

ABOUT: Final = About(
    title="Liger-Kernel, benchmark of single kernels",
    unknowns={
        "the state of the code": "between two releases: the one that followed the measurement",
        "release of torch": "not recorded: the installed one's operators",
    },
    misses=(
        Miss(
            where=lambda row: row["model"] == "fused_linear_orpo_loss" and _length(row) == 4096,
            why="measured 40 minutes before the rows of T=1024 with a state of the code that no "
            "release has: logits took 0.87 MiB a token, where every other row, of any release, "
            "has 1.73",
        ),
        Miss(
            where=lambda row: row["provider"] == "huggingface" and "po_loss" in row["model"],
            why="2,084 MiB too little in every row, whatever the batch and the loss: two heads of "
            "1,002 MiB and 80 MiB, most likely what the compiled provider, which ran before in the "
            "process, left behind",
        ),
        Miss(
            where=lambda row: row["model"].startswith("distill_"),
            why="the release that followed has no class that its scripts import, so 0.6.1 stands "
            "for the code of December 2024: for Liger 2,300 MiB too little whatever the length "
            "(two heads are 2,004), for torch five heads and two float32 copies of the logits",
        ),
        Miss(
            where=lambda row: "grpo_loss" in row["model"] and row["provider"] == "liger",
            why="1,004 MiB too much whatever the batch: torch.compile, which is not traced, does "
            "without one gradient of the head (V·H·2 = 1,002 MiB) or as much of the logits, and "
            "which of the two was not found",
        ),
        Miss(
            where=lambda row: row["model"] == "rms_norm" and row["provider"] == "liger",
            why="the surplus is 16, 32, 64, 108 and twice 112 MiB from H=1,024 to 32,768, and none "
            "in torch's rows that ran after: it grows with H only while the blocks are small, as "
            "what is left of earlier calls would, and no tensor of the code of 0.2.1 or 0.3.0 "
            "does so; the cause is not known",
        ),
        Miss(
            where=lambda row: row["model"] == "sparsemax",
            why="torch's and Liger's rows are the same to the byte in all six sizes, though the "
            "one sorts into values and int64 indices and the other into values alone: the script "
            "of that day, which no release has, most likely measured one function twice",
        ),
        Miss(
            where=lambda row: row["model"] == "sparse_multi_token_attention",
            why="measured before any release had the kernel (the first is 0.6.0), whose sparsemax "
            "then kept a float32 map and one of bool more: 1.25 times B·C·L²·4 at every length; "
            "torch's rows are exact",
        ),
        Miss(
            where=lambda row: row["model"] == "multi_token_attention",
            why="cuDNN's workspaces: the surplus in bfloat16 is two (Liger) or three (torch) times "
            "B·C·L²·2 bytes and about 1 MiB, its copies of input, output and gradient in the "
            "layout of its kernels; in float32, where it makes none, the same code is exact",
        ),
    ),
    notes=(
        "Four rows of five are within 1 %, most to the byte, at every shape and on six cards: "
        "losses, norms, RoPE, attention over neighbours, MLPs whole and in tiles.",
        "torch.nn.RMSNorm was traced as six operators, three times the memory of the kernel that "
        "CUDA has since torch 2.9: the trace now has that kernel.",
    ),
)
_UNKNOWN: Final = {
    "embedding": "12 to 14 GB more than the script allocates, the same in every row of Liger's of "
    "a setting to the byte and gone in the last four of all: left from before in the process",
}
"""Kernels whose rows measure something else."""
_SAME: Final = {("megatron_rms_norm", "megatron"): "torch"}
"""Providers that are another's: Megatron's ``WrappedTorchNorm`` makes a ``torch.nn.RMSNorm``."""


def express(row: PublishedRow) -> Iterator[NotExpressed]:
    """Nothing: the formulas are of whole models."""
    for entry in row["measured"]:
        reason = "a single kernel is computed by running its code, at trace level"
        yield NotExpressed(kind=entry["kind"], reason=reason)


def express_by_trace(row: PublishedRow) -> Iterator[Computed | NotExpressed]:
    """The script's own code on fake tensors."""
    for entry in row["measured"]:
        obstacle = _obstacle(row)
        if obstacle is not None:
            yield NotExpressed(kind=entry["kind"], reason=obstacle)
            continue
        day = str(row["timestamp"]).partition(" ")[0]
        yield Computed(kind=entry["kind"], num_bytes=partial(peak_bytes, _asked(row), day))


def _length(row: PublishedRow) -> int | None:
    length: int | None = (row["config"] or {}).get("T")
    return length


def _obstacle(row: PublishedRow) -> str | None:
    if row["model"] in _UNKNOWN:
        return _UNKNOWN[row["model"]]
    if row["model"] == "megatron_cross_entropy" and row["provider"] != "liger":
        return (
            "Megatron's losses ask for a process group and, in its newest release, other arguments"
        )
    return None


def _asked(row: PublishedRow) -> dict[str, Any]:
    x = str(row["x_value"])
    return {
        "kernel": row["model"],
        "provider": _SAME.get((row["model"], row["provider"]), row["provider"]),
        "mode": row["task"].removeprefix("kernel:"),
        "x": int(x) if x.isdigit() else x,
        "config": row["config"] or {},
        "gpu": row["gpu"],
    }
