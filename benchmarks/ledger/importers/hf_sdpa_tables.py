"""Tables of transformers' model pages: eager attention against SDPA, float16 weights, one GPU.

Their scripts are public. Training: inputs with a mask of ones, ``zero_grad``, forward,
``logits.sum()``, backward, no optimizer; ``outputs`` is replaced when the next forward pass is
over. ELECTRA's page does not name its loss: the logits' sum gives 29 % too little, the class's own
loss all 64 of its rows. Inference: the warm-up's outputs stay in the caller's frame, the loop frees
its own before the next pass; only batches of two and more carry a mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from benchmarks.ledger.moments import step_of
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.devices import cublas_workspace_bytes, find_gpu
from willfit.dtypes import FLOAT16
from willfit.estimator.outcome import load
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.machine import Gpu
from willfit.scenario.stack import TESTED, release
from willfit.sources.checkpoint import spec_of
from willfit.sources.heads import with_auto_class
from willfit.sources.resolve import resolve
from willfit.sources.structure import Checkpoint

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
_RELEASES: Final = ("4.41.2", "4.42.4", "4.46.3", "4.50.3", "4.57.6", TESTED["transformers"])
"""Releases that stand for the development versions which the pages name; the first that is later
and has the class's SDPA is taken."""
_TORCH_HAD: Final = {"2.2": "4.41", "2.3": "4.45", "2.4": "4.46", "2.5": "4.50"}
"""transformers of the time of a torch release, where a page names that alone."""
_SDPA_SINCE: Final = {"bert": "4.41", "gpt_neox": "4.42", "distilbert": "4.46", "electra": "5.0"}
"""First release listed above whose class takes SDPA, by model type (modeling files)."""


@dataclass(frozen=True, kw_only=True)
class _Page:
    """What the figures of a page's inference table say of its script, all its rows together."""

    workspaces: int = 0
    """cuBLAS workspaces beside the first: whole ones are left at every shape."""
    new_tokens: int = 0
    """An encoder was run by ``generate``, without a cache: tokens that it added."""


_PAGES: Final = {
    "bert": _Page(workspaces=2, new_tokens=128),
    "distilbert": _Page(workspaces=1),
}
"""BERT's latencies are said to be per token: ``generate`` runs the whole text again for each, with
the logits of the pass before. From batch 1 to 4 its rows grow by two sets of logits of 128 tokens
a row more than their own tokens explain."""
ABOUT: Final = About(
    title="Tables of transformers' model pages, eager against SDPA",
    unknowns={
        "release": "the page's development version, as the next release that has the class's SDPA",
        "cuBLAS workspaces in inference": "none beside the first on two pages, one (DistilBERT) and"
        " about two (BERT) by the figures; one more or less is the range",
    },
    notes=(
        "The inference script casts the whole model, GPT-NeoX's tables of cos and sin too: eager "
        "attention's scores are float16 and the peak is the first step's under either kernel. The "
        "trace turns in float32, as `from_pretrained` alone leaves it, and is asked for SDPA: keys "
        "of 4 bytes without the first pass's logits take what keys of 2 with them do, to 0.1 %.",
    ),
)


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The allocated peak of the loop, with the releases that the formulas know best.

    Before 4.45 they take every class's logits for float32; those of these pages' classes never
    were. Of GPT-NeoX what releases before 4.45 hold comes on top (`_end_of_forward`). Its inference
    is 4.41's: that page's `generate` still has the first pass's logits when it takes its first
    step.
    """
    for entry in row["measured"]:
        training = row["task"] == "train"
        model = _model(row["model"], head="AutoModel" not in row["notes"] or training)
        release_ = _release(row, model)
        if not training and _is_neox(model):
            release_ = "4.41.2"
        elif release(release_) < (4, 45):
            release_ = "4.46.3"
        yield _expressed(row, entry["kind"], model, release_, by_trace=False)


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The page's own release, from a side directory; encoders train as they do today."""
    for entry in row["measured"]:
        training = row["task"] == "train"
        model = _model(row["model"], head="AutoModel" not in row["notes"] or training)
        if not training and _is_neox(model):
            row = {**row, "attn": "sdpa"}
        own = not training or _is_neox(model)
        release_ = _release(row, model) if own else TESTED["transformers"]
        yield _expressed(row, entry["kind"], model, release_, by_trace=True)


def _expressed(
    row: PublishedRow, kind: str, model: ModelSpec, release_: str, *, by_trace: bool
) -> Expressed:
    page = _PAGES.get(str(model.config.get("model_type")), _Page())
    workspace = cublas_workspace_bytes(_gpu(row["gpu"]))
    if row["task"] == "train":
        scenario = _training(row, model, release_)
        peak = Reading(without=("load",))
        return Expressed(
            kind=kind,
            scenario=scenario,
            reading=peak
            if by_trace
            else lambda found: max(peak(found), _end_of_forward(row, scenario)),
        )
    kept = _kept(row, model, page) + page.workspaces * workspace
    return Expressed(
        kind=kind,
        scenario=_inference(row, model, release_, page),
        reading=Reading(without=("load",), plus_bytes=kept),
        unknown_bytes=(-min(page.workspaces, 1) * workspace, workspace),
    )


def _is_neox(model: ModelSpec) -> bool:
    return str(model.config.get("model_type")) == "gpt_neox"


def _end_of_forward(row: PublishedRow, scenario: Scenario) -> int:
    """All that backward needs, the logits, and the outputs of the step before.

    ``outputs`` is replaced when the pass is over. GPT-NeoX before 4.45 turns in float32, by tables
    of that type: its outputs hold each layer's keys in float32 and, through a view, the whole fused
    product, 10·h bytes a token; eager attention keeps float32 queries and its copy of values too.
    """
    model = scenario.model
    architecture = model.architecture
    assert architecture is not None
    share = load(scenario).split.shares[0]
    step = step_of(scenario)
    tokens = row["batch"] * row["seq"]
    outputs = FLOAT16.num_bytes(tokens * architecture.vocab_size) + step.kept_cache()
    held = step.weight_bytes + step.kept_bytes() + outputs - step.kept_cache()
    if _is_neox(model):
        layer = tokens * architecture.hidden_size * architecture.num_layers
        held += (12 if row["attn"] == "eager" else 4) * layer
        outputs += 10 * layer - step.kept_cache()
    return held + outputs + 2 * cublas_workspace_bytes(share.gpu)


def _kept(row: PublishedRow, model: ModelSpec, page: _Page) -> int:
    """Outputs of the warm-up, or of `generate`'s pass before; ``generate`` itself returns ids."""
    architecture = model.architecture
    if architecture is None or _generates(model):
        return 0
    named = model.model_class.endswith(("ForMaskedLM", "ForPreTraining"))
    width = architecture.vocab_size if named else architecture.hidden_size
    return FLOAT16.num_bytes(row["batch"] * (row["seq"] + page.new_tokens) * width)


def _generates(model: ModelSpec) -> bool:
    return model.model_class.endswith(("ForCausalLM", "LMHeadModel"))


def _inference(row: PublishedRow, model: ModelSpec, release_: str, page: _Page) -> Scenario:
    """A forward pass; `generate` for causal models, whose first step with the cache is the peak."""
    new = 1 if _generates(model) else page.new_tokens
    inference = Inference(
        batch_size=row["batch"],
        context_len=row["seq"] + new,
        use_cache=_generates(model),
        full_logits=True,
        attn=row["attn"],
        padded=row["batch"] > 1,
    )
    return _scenario(row, model, release_, inference=inference)


def _training(row: PublishedRow, model: ModelSpec, release_: str) -> Scenario:
    training = Training(
        method="full",
        trainer="loop",
        loss="model" if "electra" in row["model"] else "logits",
        optimizer="sgd",
        micro_batch_size=row["batch"],
        max_length=row["seq"],
        gradient_checkpointing=False,
        max_grad_norm=None,
        attn=row["attn"],
    )
    return _scenario(row, model, release_, training=training)


def _scenario(row: PublishedRow, model: ModelSpec, release_: str, **work: Any) -> Scenario:
    return Scenario(
        model=model,
        workload=Workload(loading=Loading(dtype=FLOAT16), **work),
        machine=Machine(gpus=(_gpu(row["gpu"]),)),
        stack=Stack(versions={**TESTED, "transformers": release_}),
    )


def _release(row: PublishedRow, model: ModelSpec) -> str:
    """The page's own, else by the torch that it names; not before the class took SDPA."""
    named = re.search(r"tf ?~?(\d+\.\d+)", row["notes"])
    torch = re.search(r"torch(\d+\.\d+)", row["notes"])
    found = named[1] if named else _TORCH_HAD.get(torch[1] if torch else "", "")
    since = _SDPA_SINCE.get(str(model.config.get("model_type")), "4.46")
    wanted = max(release(found), release(since)) if found else release(TESTED["transformers"])
    return next((r for r in _RELEASES if release(r) >= wanted), _RELEASES[-1])


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
