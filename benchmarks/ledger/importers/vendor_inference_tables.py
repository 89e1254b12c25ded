"""Vendors' own tables: DeepSeek-LLM's grid of batch and length, GLM-4 by length, some fine-tuning.

DeepSeek's table says "peak memory usage of inference" on A100s of 40 GB and no more; GLM-4's is
nvidia-smi in whole GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow, RanOut
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16
from willfit.scenario import Inference, Loading, Machine, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED

ABOUT: Final = About(
    title="Vendors' inference tables (DeepSeek-LLM, GLM-4)",
    unknowns={
        "counter (DeepSeek)": "torch's reserved memory: figures exceed what is allocated by what "
        "the pool keeps, and stop growing at the card's capacity; no context is in them",
        "attention (DeepSeek)": "eager, that of its date: figures grow with the square of the "
        "length, by about six bytes a score and head",
        "what ran (GLM-4)": "a forward pass of the stated length with today's defaults",
    },
    misses=(
        Miss(
            why="the pool keeps blocks of scores and logits of earlier layers, which the trace "
            "follows and the formula's reserved amount has not",
            where=lambda row: "deepseek" in row["model"],
            level="formula",
        ),
        Miss(
            why="nvidia-smi after generation of unstated length, in whole GB: the reserved pool of "
            "a release and attention that are not named",
            where=lambda row: "GLM" in row["model"],
        ),
    ),
)
_OLDER: Final = Stack(versions={**TESTED, "transformers": "4.35.2"})
"""DeepSeek-LLM is of November 2023."""
_NAMES: Final = {
    "deepseek-ai/deepseek-llm-7b": "deepseek-ai/deepseek-llm-7b-base",
    "deepseek-ai/deepseek-llm-67b": "deepseek-ai/deepseek-llm-67b-base",
    "THUDM/GLM-4-9B-0414": "zai-org/GLM-4-9B-0414",
}


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed | RanOut]:
    """A forward pass where batch and length are known."""
    for entry in row["measured"]:
        kind = str(entry["kind"])
        if row["task"] != "inference":
            reason = "its batch or length is in files that the table does not name"
            yield NotExpressed(kind=kind, reason=reason)
        elif "deepseek-llm" in str(row["model"]):
            yield from _deepseek(row, kind)
        else:
            yield _glm(row, kind)


def _deepseek(row: PublishedRow, kind: str) -> Iterator[Expressed | RanOut]:
    """One forward pass with logits of every position, by eager attention."""
    scenario = Scenario(
        model=published_model(_NAMES.get(str(row["model"]), str(row["model"]))),
        workload=Workload(
            loading=Loading(dtype=BFLOAT16),
            inference=Inference(
                batch_size=int(row["batch"]),
                context_len=int(row["seq"]) + 1,
                max_new_tokens=1,
                attn="eager",
            ),
        ),
        machine=Machine(gpus=(find_gpu(str(row["gpu"])),) * int(row["n_gpu"])),
        stack=_OLDER,
    )
    if row["oom"]:
        yield RanOut(scenario=scenario)
    else:
        reading = Reading(amount="reserved", phases=("prefill",))
        yield Expressed(kind=kind, scenario=scenario, reading=reading)


def _glm(row: PublishedRow, kind: str) -> Expressed | NotExpressed:
    name = str(row["model"])
    if name not in _NAMES or row["dtype"] != "bfloat16":
        return NotExpressed(kind=kind, reason="a model whose code is its own")
    return Expressed(
        kind=kind,
        scenario=Scenario(
            model=published_model(_NAMES[name]),
            workload=Workload(
                loading=Loading(dtype=BFLOAT16),
                inference=Inference(context_len=int(row["seq"]) + 1, max_new_tokens=1),
            ),
            machine=Machine(gpus=(find_gpu("H100-SXM5-80GB"),)),
        ),
        reading=Reading(amount="device"),
        card_known=False,
    )
