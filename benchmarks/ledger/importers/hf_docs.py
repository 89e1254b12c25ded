"""Figures printed in documentation of transformers, PEFT and accelerate.

Expressed are the BERT-large series (Trainer, AdamW, 512 tokens, a V100 whose context the series
itself measures: 1343 MiB), OctoCoder, which has StarCoder's shapes, transformers' own benchmark of
BERT on a TITAN RTX (torch 1.4: one context for the series, found from one row), and what accelerate
loads on the first of two GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.sources.heads import with_auto_class
from willfit.sources.resolve import resolve
from willfit.units import MIB

_V100: Final = find_gpu("V100-16GB")
_A100: Final = find_gpu("A100-SXM4-80GB")
_TITAN: Final = find_gpu("TITAN RTX")


def _torch_1(row: PublishedRow, _: str) -> bool:
    """The V100's series is of December 2021, the TITAN's names torch 1.4 or accelerate 0.x."""
    return str(row["gpu"]).startswith(("V100", "TITAN RTX"))


ABOUT: Final = About(
    title="Figures in documentation of transformers, PEFT, accelerate",
    apart=_torch_1,
    unknowns={
        "context of a TITAN RTX under torch 1.4": "found from the smallest run of the series, used "
        "for all; kernels that longer texts load come on top",
        "unit of accelerate's table": "GB or GiB: both are the range",
    },
    misses=(
        Miss(
            why="torch 1.10 of 2021: a sequence takes 0.17 GB more than today's, for reasons not "
            "known",
            ids=("hf_docs:2", "hf_docs:5"),
        ),
    ),
    notes=(
        "Until torch 1.11 softmax kept its input for backward beside its result (derivatives.yaml "
        "`_softmax`; transformers' `softmax_backward_data` has both calls): 4·H·S² bytes a layer "
        "and sequence, which no later torch keeps, are added to the V100's steps.",
    ),
)
_SERIES_BYTES: Final = 789 * MIB
"""The TITAN's context and kernels: `hf_docs:21` (1005 MiB) without its 216 MiB of segments."""
_CONTEXT_BYTES: Final = 1343 * MIB
"""The series' own first figure, on that GPU and with that release."""
_PROMPT: Final = (20, 60)
"""OctoCoder's example: about 20 tokens, 60 new ones."""


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The series that say enough; of the others what is missing."""
    for entry in row["measured"]:
        kind, model = entry["kind"], str(row["model"])
        if model.startswith("bert-large-uncased") and row["task"] in ("load", "train"):
            yield Expressed(
                kind=kind,
                scenario=_bert(row),
                reading=Reading(amount="reserved", plus_bytes=_CONTEXT_BYTES + _scores(row)),
            )
        elif model.startswith("bigcode/octocoder"):
            yield Expressed(kind=kind, scenario=_octocoder(row), reading=Reading())
        elif model.startswith(("bert-base-uncased (", "bert-384-hid")) and "TITAN" in row["gpu"]:
            yield Expressed(
                kind=kind,
                scenario=_benchmarked(row),
                reading=Reading(amount="reserved", plus_bytes=_SERIES_BYTES),
            )
        elif model == "bert-base-cased" and row["task"] == "load":
            yield _loaded(row, kind)
        elif "big_model_inference" in row["repo_path"]:
            yield _dispatched(row, kind)
        else:
            yield NotExpressed(kind=kind, reason=_missing(row))


def _scores(row: PublishedRow) -> int:
    """Inputs of softmax that torch 1.10 keeps in a step: 24 layers of 16 heads."""
    if row["task"] != "train" or row["grad_ckpt"]:
        return 0
    return 24 * 16 * 4 * int(row["batch"]) * int(row["seq"]) ** 2


def _benchmarked(row: PublishedRow) -> Scenario:
    """`PyTorchBenchmark` on a config without a class: the model without a head, forward."""
    config = dict(resolve("google-bert/bert-base-uncased").config)
    config["architectures"] = ["BertModel"]
    if "384" in row["model"]:
        config["hidden_size"] = 384
    inference = Inference(
        batch_size=row["batch"], context_len=row["seq"], use_cache=False, attn="eager"
    )
    return Scenario(
        model=from_config(row["model"], config),
        workload=Workload(loading=Loading(dtype=FLOAT32), inference=inference),
        machine=Machine(gpus=(_TITAN,)),
    )


def _loaded(row: PublishedRow, kind: str) -> Expressed:
    """What accelerate's page calls the real size: the model without a head."""
    config = {**published_model("google-bert/bert-base-cased").config}
    scenario = Scenario(
        model=from_config(row["model"], {**config, "architectures": ["BertModel"]}),
        workload=Workload(loading=Loading(dtype=FLOAT32)),
        machine=Machine(gpus=(_TITAN,)),
    )
    return Expressed(
        kind=kind, scenario=scenario, reading=Reading(moment="loaded"), card_known=False
    )


_UNSPLIT: Final = {"EleutherAI/gpt-j-6B": "float16"}
"""Models of accelerate's table that one GPU holds: the others follow from a split of 2022."""


def _dispatched(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    """A figure of 0.1 GB: GB as they are printed, or GiB."""
    if _UNSPLIT.get(row["model"]) != row["dtype"] or kind != "GPU0 used":
        reason = "rounded to 0.1 GB, of two GPUs over which accelerate 0.x split it"
        return NotExpressed(kind=kind, reason=reason)
    scenario = Scenario(
        model=published_model(row["model"]),
        workload=Workload(loading=Loading(dtype=FLOAT16)),
        machine=Machine(gpus=(_TITAN,)),
    )
    measured = round(next(m["bytes"] for m in row["measured"] if m["kind"] == kind))
    return Expressed(
        kind=kind,
        scenario=scenario,
        reading=Reading(moment="loaded"),
        unknown_bytes=(measured - round(measured * 1.073741824), 0),
        card_known=False,
    )


def _missing(row: PublishedRow) -> str:
    if row["task"] == "context":
        return "a CUDA context alone: an input of the series"
    if row["n_gpu"] > 1:
        return "rounded to 0.1 GB or more, on several GPUs with settings not recorded"
    return "batch, length or types not recorded"


def _bert(row: PublishedRow) -> Scenario:
    model = with_auto_class(
        resolve("google-bert/bert-large-uncased"), "AutoModelForSequenceClassification", 2
    )
    work: dict[str, Any] = {}
    if row["task"] == "train":
        half = row["dtype"] == "fp16 amp"
        work["training"] = Training(
            method="full",
            optimizer="adamw_hf",
            micro_batch_size=row["batch"],
            gradient_accumulation_steps=row["grad_accum"],
            max_length=row["seq"],
            gradient_checkpointing=row["grad_ckpt"],
            use_reentrant=True,
            fp16=half or None,
            attn="eager",
        )
    return Scenario(
        model=model,
        workload=Workload(loading=Loading(dtype=FLOAT32, num_labels=2), **work),
        machine=Machine(gpus=(_V100,)),
    )


def _octocoder(row: PublishedRow) -> Scenario:
    quantization = None
    if row["quant"]:
        eight = row["quant"].startswith("bnb-8bit")
        quantization = Quantization(
            scheme="int8" if eight else "fp4", compute_dtype=None if eight else FLOAT16
        )
    prompt, new = _PROMPT
    return Scenario(
        model=_renamed(resolve("bigcode/starcoder"), "bigcode/octocoder"),
        workload=Workload(
            loading=Loading(dtype=BFLOAT16, quantization=quantization),
            inference=Inference(context_len=prompt + new, max_new_tokens=new, attn=row["attn"]),
        ),
        machine=Machine(gpus=(_A100,)),
    )


def _renamed(model: ModelSpec, name: str) -> ModelSpec:
    return replace(model, id=name)
