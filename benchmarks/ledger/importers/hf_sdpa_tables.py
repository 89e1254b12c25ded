"""Tables of transformers' model pages: eager attention against SDPA, float16 weights, one GPU.

Training is ``zero_grad``, forward, ``logits.sum()``, backward, with no optimizer; the loop keeps
its outputs. ELECTRA's page does not name its loss: the logits' sum gives 29 % too little, the
class's own loss all 64 of its rows. Whether inputs carried a mask is not said: both are estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT16
from willfit.scenario import Inference, Loading, Machine, ModelSpec, Scenario, Training, Workload
from willfit.scenario.machine import Gpu
from willfit.sources.checkpoint import spec_of
from willfit.sources.heads import with_auto_class
from willfit.sources.resolve import resolve
from willfit.sources.structure import Checkpoint

ABOUT: Final = About(title="Tables of transformers' model pages, eager against SDPA")
_GPUS: Final = {
    "A100-80GB": "A100-SXM4-80GB",
    "RTX3080Ti-16GB": "RTX 3080 Ti Laptop GPU",
    "RTX2060-8GB": "RTX 2060 SUPER",
    "T4-15GB": "T4",
}
_GENERATOR: Final = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "embedding_size": 768,
}
"""ELECTRA's base generator is a third of its discriminator (ELECTRA, 2020, table 6)."""


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The allocated peak of the loop."""
    for entry in row["measured"]:
        training = row["task"] == "train"
        model = _model(row["model"], head="AutoModel" not in row["notes"] or training)
        yield Expressed(
            kind=entry["kind"],
            scenario=_scenario(row, model, padded=False),
            high_scenario=_scenario(row, model, padded=True),
            reading=Reading(without=("load",)),
            unknown_bytes=(0, 0 if training else _earlier_outputs(row, model)),
        )


def _earlier_outputs(row: PublishedRow, model: ModelSpec) -> int:
    """Logits of the pass before, where the loop holds on to them; not said."""
    vocab = model.architecture.vocab_size if model.architecture is not None else 0
    return FLOAT16.num_bytes(row["batch"] * row["seq"] * vocab)


def _scenario(row: PublishedRow, model: ModelSpec, *, padded: bool) -> Scenario:
    work: dict[str, Any] = {
        "inference": Inference(
            batch_size=row["batch"],
            context_len=row["seq"] + (1 if model.model_class.endswith("CausalLM") else 0),
            full_logits=True,
            attn=row["attn"],
            padded=padded,
        )
    }
    if row["task"] == "train":
        work = {
            "training": Training(
                method="full",
                trainer="loop",
                loss="model" if "electra" in row["model"] else "logits",
                optimizer="sgd",
                micro_batch_size=row["batch"],
                max_length=row["seq"],
                gradient_checkpointing=False,
                max_grad_norm=None,
                attn=row["attn"],
                padded=padded,
            )
        }
    return Scenario(
        model=model,
        workload=Workload(loading=Loading(dtype=FLOAT16), **work),
        machine=Machine(gpus=(_gpu(row["gpu"]),)),
    )


def _gpu(name: str) -> Gpu:
    return find_gpu(_GPUS[name])


@lru_cache
def _model(name: str, *, head: bool) -> ModelSpec:
    if "electra" in name:
        config = dict(resolve("google/electra-base-discriminator").config)
        config["architectures"] = ["ElectraForMaskedLM"]
        if name.endswith("generator"):
            config |= _GENERATOR
        return replace(spec_of(Checkpoint(id=name, source="local", config=config)), id=name)
    return with_auto_class(resolve(name), None if head else "AutoModel", None)
