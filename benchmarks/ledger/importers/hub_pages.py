"""Excerpts of Hub commit pages: prefill of bitsandbytes models, and the Trainer's memory metrics.

The prefill runs (optimum-benchmark 0.2, batch 1, 256 tokens) record neither GPU nor releases. Their
bytes date them: Mistral-7B's cos and sin in every layer (before transformers 4.42), Llama-2's too
(not 4.41), and packed weights of nested quantisation, for without it weights, K and V alone take
more than Llama-2's figure; all rows agree with 4.40.2 and `double_quant`. The repository's name
says flash attention, which is what SDPA takes without a mask. The Trainer's pages record no batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.moments import moment_by_formula
from benchmarks.ledger.reading import Amount, Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT16, FLOAT32, parse_dtype
from willfit.estimator import estimate
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED
from willfit.scenario.workload import QuantScheme

ABOUT: Final = About(
    title="Excerpts of Hub commit pages",
    apart=lambda _, kind: kind.startswith(("init_mem", "train_mem")),  # what a phase left
    unknowns={
        "transformers, nested quantisation": "4.40.2, nested: what agrees with every prefill row,"
        " and what accelerate before 0.33 made of settings that it lost (as on LLM-perf's page)",
        "Trainer's batch": "what depends on it is not read",
    },
    misses=(
        Miss(
            why="Four times the weights stay after training instead of three: a second copy of all "
            "gradients, as data parallelism makes it; the pages do not say on how many GPUs",
            kind="train_mem_gpu_alloc_delta",
            ids=("hub_pages:32", "hub_pages:33", "hub_pages:34"),
        ),
    ),
)
_PREFILL: Final = Stack(versions={**TESTED, "transformers": "4.40.2"})
_TRAINER: Final = Stack(versions={**TESTED, "transformers": "4.9.2"})
"""The metrics' names and GPT-2's masks date the Trainer's pages: 2021."""
_ROCM: Final = Stack(versions={**TESTED, "transformers": "4.42.4"})
_GPU: Final = find_gpu("RTX A5000")
"""24 GB; the pages say 24 to 48 GB of NVIDIA's."""
_SCHEMES: Final[dict[str, QuantScheme]] = {"nf4": "nf4", "fp4": "fp4", "LLM.int8": "int8"}
_COUNTERS: Final[dict[str, Amount]] = {
    "torch max_allocated": "allocated",
    "torch max_reserved": "reserved",
}

_LASTING: Final = ("gradients", "optimizer_states")
"""Of the step, what stays when it is over; before torch 1.11 cuBLAS took its workspaces itself."""


_TRAINED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "google-bert/bert-large-uncased (QA)": (
        "google-bert/bert-large-uncased", {"architectures": ["BertForQuestionAnswering"]},
    ),
    "bert-large?": ("google-bert/bert-large-uncased", {"vocab_size": 28996}),
    "GPT-2 small": ("openai-community/gpt2", {}),
    "distilgpt2": ("distilbert/distilgpt2", {}),
    "bert-base-chinese size": (
        "google-bert/bert-base-cased",
        {"vocab_size": 21128, "architectures": ["BertForSequenceClassification"]},
    ),
    "ALBERT-base (indobert-lite)": (
        "albert/albert-base-v2", {"architectures": ["AlbertForQuestionAnswering"]},
    ),
}  # fmt: skip
"""Models by the rows' own words: base, and what of its config is another.

"bert-large?" has 1,335,215,616 bytes with a language-modelling head: the cased vocabulary's 28,996
words, to 0.06 %. Chinese BERT has 21,128 words; its head is not said and small. indobert-lite has
ALBERT-base's shapes, 44,378,120 bytes with a question-answering head: 44,382,720 are published."""


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Prefill by counter; of the Trainer what does not depend on the batch."""
    for entry in row["measured"]:
        kind = entry["kind"]
        if "AMD" in str(row["gpu"]):
            yield _rocm(row, kind)
        elif row["task"] == "train":
            yield _trainer(row, kind)
        else:
            yield _prefill(row, kind)


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Under the release that the pages agree with; for the Trainer's of 2021 under today's.

    What that held besides is the formulas'.
    """
    for result in express(row):
        if isinstance(result, NotExpressed) or result.scenario.stack in (_ROCM, _PREFILL):
            yield result
            continue
        today = replace(result.scenario, stack=Stack())
        assert isinstance(result.reading, Reading)
        reading = result.reading
        more = _by_formula(result.scenario, reading) - _by_formula(today, reading)
        if reading.moment is not None:
            yield replace(result, scenario=today, unknown_bytes=(more, more))
        else:
            yield replace(result, scenario=today, reading=replace(reading, plus_bytes=more))


def _by_formula(scenario: Scenario, reading: Reading) -> int:
    found = estimate(scenario, search_limits=False)
    if reading.moment is not None:
        return moment_by_formula(scenario, found, reading.moment)
    return reading(found)


def _rocm(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    """What 16 tokens allocate depends on no kernel: GPT-2's batch of 2, forward and training."""
    if "allocated" not in kind:
        return NotExpressed(kind=kind, reason="what ROCm's libraries reserve is not known")
    phase = row.get("phase")
    if phase not in ("prefill", "overall") or "vit" in row["model"]:
        return NotExpressed(kind=kind, reason="which kernels ROCm takes is not known")
    training = Training(
        method="full", trainer="loop", optimizer="adamw_torch", micro_batch_size=2, max_length=16
    )
    work: dict[str, Any] = {"training": training}
    if phase == "prefill":
        work = {"inference": Inference(batch_size=2, context_len=17, full_logits=True)}
    return Expressed(
        kind=kind,
        scenario=Scenario(
            model=published_model(row["model"]),
            workload=Workload(loading=Loading(dtype=FLOAT32), **work),
            machine=Machine(gpus=(find_gpu("MI250X"),)),
            stack=_ROCM,
        ),
        reading=Reading(phases=("prefill",) if phase == "prefill" else ()),
    )


def _prefill(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    counter = kind.partition(" (")[0]
    if counter not in _COUNTERS:
        return NotExpressed(kind=kind, reason="a device counter on a GPU that is not recorded")
    return Expressed(
        kind=kind,
        scenario=_scenario(row),
        reading=Reading(amount=_COUNTERS[counter], phases=("prefill",)),
    )


def _scenario(row: PublishedRow) -> Scenario:
    quantization = None
    if row["quant"]:
        scheme = _SCHEMES[row["quant"].split()[1]]
        quantization = Quantization(
            scheme=scheme, compute_dtype=FLOAT16, double_quant=scheme != "int8"
        )
    inference = Inference(context_len=int(row["seq"].split()[0]) + 1, batch_size=row["batch"])
    loading = Loading(dtype=parse_dtype(row["dtype"]), quantization=quantization)
    return Scenario(
        model=published_model(row["model"]),
        workload=Workload(loading=loading, inference=inference),
        machine=Machine(gpus=(_GPU,)),
        stack=_PREFILL,
    )


def _trainer(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    """What the model and, at the end, gradients, AdamW's states and workspaces take."""
    if re.fullmatch(r"BERT \([\d.]+M\)", row["model"]):
        return NotExpressed(kind=kind, reason="of the model only the number of parameters is said")
    if kind.startswith("train_mem_gpu_peaked"):
        return NotExpressed(kind=kind, reason="batch and length not recorded")
    training = Training(
        method="full", optimizer="adamw_torch", micro_batch_size=1, max_length=128, trainer="loop"
    )
    scenario = Scenario(
        model=_of_trainer(row["model"]),
        workload=Workload(loading=Loading(dtype=FLOAT32), training=training),
        machine=Machine(gpus=(_GPU,)),
        stack=_TRAINER,
    )
    if kind.startswith("init_mem_gpu"):
        return Expressed(kind=kind, scenario=scenario, reading=Reading(moment="loaded"))
    return Expressed(
        kind=kind, scenario=scenario, reading=Reading(phases=("step",), components=_LASTING)
    )


@lru_cache
def _of_trainer(name: str) -> ModelSpec:
    base, changed = _TRAINED.get(name, (name, {}))
    model = published_model(base)
    return from_config(name, {**model.config, **changed}) if changed else model
