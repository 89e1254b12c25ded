"""huggingface/optimum-benchmark report tables: forward and generate on an A100-80GB.

Random token ids with a full mask; ``forward`` returns the logits of every position; peaks are
reset before each phase. NVML is read once at the end of a phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.ledger.reading import Amount, Reading
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT16, parse_dtype
from willfit.scenario import Inference, Loading, Machine, Quantization, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED
from willfit.sources.resolve import resolve

ABOUT: Final = About(title="huggingface/optimum-benchmark, reports of 2023")
_ATTENTION: Final = {
    "eager": "eager",
    "bettertransformer(sdpa)": "sdpa",
    "flash_attention_2": "flash_attention_2",
}


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Forward and generate, each by allocated, reserved and NVML."""
    for entry in row["measured"]:
        kind = entry["kind"]
        task, _, counter = kind.partition(":")
        if len(set(str(row["gpu"]).strip("[]").replace("'", "").split(", "))) > 1:
            yield NotExpressed(kind=kind, reason="device-wide counter over unlike GPUs")
        elif counter.startswith("nvml") and "," in str(row["gpu"]):
            yield NotExpressed(kind=kind, reason="NVML summed over GPUs that the job does not use")
        elif task == "generate" and row["new_tokens"] is None:
            yield NotExpressed(kind=kind, reason="number of new tokens not recorded")
        else:
            yield Expressed(
                kind=kind, scenario=_scenario(row, task), reading=_reading(task, counter)
            )


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Unquantised rows of eager attention, under the release of transformers that they name.

    torch is the installed one: the allocator's rules have not changed since 2.1.
    """
    for result in express(row):
        obstacle = _untraced(row) or _unread(row, result.kind)
        if obstacle is not None or isinstance(result, NotExpressed):
            yield result if obstacle is None else NotExpressed(kind=result.kind, reason=obstacle)
            continue
        version = row["versions"]["transformers"]
        stack = Stack(versions={**TESTED, "transformers": version})
        yield replace(result, scenario=replace(result.scenario, stack=stack))


def _untraced(row: PublishedRow) -> str | None:
    """Why a row cannot be run on fake tensors."""
    if (row["quant"] or {}).get("scheme"):
        return f"layers of {row['quant']['scheme']} of that time are not built by the trace"
    if row["attn"] == "bettertransformer(sdpa)":
        return "BetterTransformer was optimum's, which no longer has it"
    if row["attn"] != "eager":
        return f"{row['attn']} needs its CUDA library to be imported"
    if not str(row["versions"].get("transformers", "")):
        return "the release of transformers is not recorded"
    return None


def _unread(row: PublishedRow, kind: str) -> str | None:
    """Why a counter of a row says something else than a peak of the run."""
    task, _, counter = kind.partition(":")
    if counter.startswith("nvml"):
        return "NVML was read once, at the end, when a full device had been given segments back"
    emptied = "caches not emptied" not in row["quality"]
    if emptied or (task == "generate" and counter == "torch_max_memory_allocated"):
        return None
    return "caches were not emptied before: the pool still held what loading took"


def _scenario(row: PublishedRow, task: str) -> Scenario:
    generating = task == "generate"
    prompt = int(row["seq"])
    new_tokens = int(row["new_tokens"]) if generating else None
    inference = Inference(
        batch_size=int(row["batch"]),
        context_len=prompt + (new_tokens or 0),
        max_new_tokens=new_tokens,
        full_logits=not generating,
        attn=_ATTENTION[row["attn"]],
    )
    quant = row["quant"] or {}
    loading = Loading(
        dtype=parse_dtype(row["dtype"]) if row["dtype"] else None,
        quantization=Quantization(scheme="fp4", compute_dtype=FLOAT16)
        if quant.get("scheme") == "bnb"
        else None,
    )
    versions = {name: v for name, v in row["versions"].items() if name in TESTED}
    return Scenario(
        model=resolve(row["model"]),
        workload=Workload(loading=loading, inference=inference),
        machine=Machine(gpus=(find_gpu("A100-SXM4-80GB"),)),
        stack=Stack(versions={**TESTED, **versions}),
    )


_AMOUNTS: Final[dict[str, Amount]] = {
    "torch_max_memory_allocated": "allocated",
    "torch_max_memory_reserved": "reserved",
    "nvml_used": "device",
    "nvml_used_peak_memory": "device",
}


def _reading(task: str, counter: str) -> Reading:
    """Peaks are reset before each phase: a forward has no decoding, generate has both."""
    phases = ("prefill", "forward") if task == "forward" else ("prefill", "decode")
    return Reading(amount=_AMOUNTS[counter], phases=phases)
