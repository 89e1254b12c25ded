"""AnswerDotAI/fsdp_qlora profiling notebooks: ``memory_allocated`` after model, forward, backward.

A stock ``LlamaForCausalLM(config)`` in bfloat16 and in train mode, batch 1, no optimizer, outputs
alive, ``logits.mean()`` as loss. Two notebooks of 2024 with two unstated releases of transformers:
today's and 4.37 are the two ends. The GPU is unstated, its 16 GB are said in a comment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from benchmarks.ledger.moments import Moment
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import EARLIER, About, Expressed, NotExpressed, PublishedRow
from willfit.devices import cublas_workspace_bytes, find_gpu
from willfit.dtypes import BFLOAT16
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.sources.checkpoint import spec_of
from willfit.sources.structure import Checkpoint

ABOUT: Final = About(title="AnswerDotAI/fsdp_qlora, profiling notebooks")
_GPU: Final = find_gpu("RTX A4000")
"""16 GB; bfloat16 memory linear in the length says sm_80 or later."""
_MOMENTS: Final[dict[str, Moment]] = {
    "memory_allocated after model.to(cuda,bf16)": "loaded",
    "memory_allocated after forward (output alive)": "forward",
    "memory_allocated after backward (output+grads alive)": "backward",
}


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """One result per moment."""
    for entry in row["measured"]:
        kind = entry["kind"]
        obstacle = _obstacle(row)
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        yield Expressed(
            kind=kind,
            scenario=_scenario(row),
            high_scenario=replace(_scenario(row), stack=EARLIER),
            reading=Reading(moment=_MOMENTS[kind]),
            card_known=False,
            unknown_bytes=(0, _left_over_workspaces(_MOMENTS[kind])),
        )


def _obstacle(row: PublishedRow) -> str | None:
    if row["quant"] is not None and row["quant"].startswith("HQQ"):
        return "HQQ layers have neither a formula nor a traced kernel"
    if row["task"] == "inference" and row["peft"] is not None:
        return "an inference scenario has no adapter"
    return None


def _left_over_workspaces(moment: Moment) -> int:
    """CuBLAS workspaces that earlier runs of the same process left, where this run has none yet."""
    return {"loaded": 2, "forward": 1, "backward": 0}[moment] * cublas_workspace_bytes(_GPU)


def _scenario(row: PublishedRow) -> Scenario:
    quantization = None
    if row["quant"] is not None:
        quantization = Quantization(scheme="nf4", compute_dtype=BFLOAT16)
    work: dict[str, Any] = {"inference": Inference(context_len=row["seq"] + 1, full_logits=True)}
    if row["task"] == "train":
        work = {"training": _training(row, quantized=quantization is not None)}
    return Scenario(
        model=_model(**row["arch"]),
        workload=Workload(loading=Loading(dtype=BFLOAT16, quantization=quantization), **work),
        machine=Machine(gpus=(_GPU,)),
    )


def _training(row: PublishedRow, *, quantized: bool) -> Training:
    peft = row["peft"]
    lora = None
    if peft is not None:
        lora = Lora(r=peft["r"], dropout=peft["lora_dropout"], dtype=BFLOAT16)
    return Training(
        method="full" if lora is None else "qlora" if quantized else "lora",
        trainer="loop",
        loss="logits",
        lora=lora,
        optimizer="sgd",
        micro_batch_size=row["batch"],
        max_length=row["seq"],
        gradient_checkpointing=row["grad_ckpt"],
        use_reentrant=False,
        max_grad_norm=None,
    )


@lru_cache
def _model(**shape: int) -> ModelSpec:
    """``LlamaConfig()`` with these fields changed."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        **shape,
    }
    return spec_of(Checkpoint(id=f"llama of {shape['hidden_size']}", source="local", config=config))
