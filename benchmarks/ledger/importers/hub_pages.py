"""Excerpts of Hub commit pages: prefill of bitsandbytes models, and the Trainer's memory metrics.

The prefill runs (optimum-benchmark 0.2, batch 1, 256 tokens) record neither GPU nor releases:
today's and transformers 4.37 are the two ends. The repository's name says flash attention, which is
what SDPA takes without a mask. The Trainer's pages record no batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from benchmarks.ledger.reading import Amount, Reading
from benchmarks.ledger.row import EARLIER, About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT16, FLOAT32, parse_dtype
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.scenario.workload import QuantScheme
from willfit.sources.resolve import resolve

ABOUT: Final = About(title="Excerpts of Hub commit pages")
_GPU: Final = find_gpu("RTX A5000")
"""24 GB; the pages say 24 to 48 GB of NVIDIA's."""
_SCHEMES: Final[dict[str, QuantScheme]] = {"nf4": "nf4", "fp4": "fp4", "LLM.int8": "int8"}
_COUNTERS: Final[dict[str, Amount]] = {
    "torch max_allocated": "allocated",
    "torch max_reserved": "reserved",
}

_LASTING: Final = ("gradients", "optimizer_states", "workspaces")
"""Of the step, what stays when it is over."""


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Prefill by counter; of the Trainer what does not depend on the batch."""
    for entry in row["measured"]:
        kind = entry["kind"]
        if "AMD" in str(row["gpu"]):
            yield NotExpressed(kind=kind, reason="which kernels ROCm takes is not known")
        elif row["task"] == "train":
            yield _trainer(row, kind)
        else:
            yield _prefill(row, kind)


def _prefill(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    counter = kind.partition(" (")[0]
    if counter not in _COUNTERS:
        return NotExpressed(kind=kind, reason="a device counter on a GPU that is not recorded")
    scenario = _scenario(row)
    four_bit = bool(row["quant"]) and "int8" not in row["quant"]
    return Expressed(
        kind=kind,
        scenario=scenario,
        low_scenario=_double_quantised(scenario) if four_bit else None,
        high_scenario=replace(scenario, stack=EARLIER),
        reading=Reading(amount=_COUNTERS[counter], phases=("prefill",)),
    )


def _scenario(row: PublishedRow) -> Scenario:
    quantization = None
    if row["quant"]:
        quantization = Quantization(scheme=_SCHEMES[row["quant"].split()[1]], compute_dtype=FLOAT16)
    inference = Inference(context_len=int(row["seq"].split()[0]) + 1, batch_size=row["batch"])
    loading = Loading(dtype=parse_dtype(row["dtype"]), quantization=quantization)
    return Scenario(
        model=resolve(row["model"]),
        workload=Workload(loading=loading, inference=inference),
        machine=Machine(gpus=(_GPU,)),
    )


def _double_quantised(scenario: Scenario) -> Scenario:
    """Not recorded either: packed weights, K and V alone take more than Llama-2's figure."""
    loading = scenario.workload.loading
    assert loading.quantization is not None
    nested = replace(loading.quantization, double_quant=True)
    return replace(
        scenario,
        workload=replace(scenario.workload, loading=replace(loading, quantization=nested)),
    )


def _trainer(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    """What the model and, at the end, gradients, AdamW's states and workspaces take."""
    if kind.startswith("train_mem_gpu_peaked"):
        return NotExpressed(kind=kind, reason="batch and length not recorded")
    training = Training(
        method="full", optimizer="adamw_torch", micro_batch_size=1, max_length=128, trainer="loop"
    )
    scenario = Scenario(
        model=resolve(row["model"]),
        workload=Workload(loading=Loading(dtype=FLOAT32), training=training),
        machine=Machine(gpus=(_GPU,)),
    )
    if kind.startswith("init_mem_gpu"):
        return Expressed(kind=kind, scenario=scenario, reading=Reading(moment="loaded"))
    return Expressed(
        kind=kind, scenario=scenario, reading=Reading(phases=("step",), components=_LASTING)
    )
