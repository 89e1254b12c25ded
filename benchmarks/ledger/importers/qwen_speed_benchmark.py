"""QwenLM speed benchmark pages: batch 1, four prompt lengths, 2,048 new tokens.

The counter is the sum over GPUs of ``max_memory_allocated``, loading included. The Qwen1.5 and
Qwen2 pages were taken with transformers 4.38, which upcasts the logits of the whole prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.ledger.models import published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.scenario import Inference, Loading, Machine, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED, release

ABOUT: Final = About(title="QwenLM, speed benchmark pages")
_GPUS: Final = {"A100-80GB": "A100-SXM4-80GB", "H20-96GB": "H20"}


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The sum over GPUs of the allocated peaks."""
    for entry in row["measured"]:
        yield Expressed(kind=entry["kind"], scenario=_scenario(row), reading=Reading(gpus="sum"))


def _scenario(row: PublishedRow) -> Scenario:
    versions = {
        name: ".".join(map(str, release(version.lstrip("~"))))
        for name, version in row["versions"].items()
        if name in TESTED
    }
    prompt, new_tokens = int(row["seq"]), int(row["new_tokens"])
    inference = Inference(
        context_len=prompt + new_tokens, max_new_tokens=new_tokens, attn="flash_attention_2"
    )
    model = published_model(row["model"])
    return Scenario(
        model=model,
        workload=Workload(loading=Loading(dtype=model.stored_dtype), inference=inference),
        machine=Machine(gpus=(find_gpu(_GPUS[row["gpu"]]),) * int(row["n_gpu"])),
        stack=Stack(versions={**TESTED, **versions}),
    )
