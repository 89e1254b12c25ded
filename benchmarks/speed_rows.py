"""A published speed as a scenario, and the quantity of our timing that it is compared with."""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, DTYPES, FLOAT16, DType
from willfit.errors import UnsupportedError
from willfit.estimator.timing import Span, Timing
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED, release
from willfit.sources.resolve import resolve

Row = dict[str, Any]
"""One line of ``throughput.jsonl``: id, source, repo_path, model, gpu, n_gpu, kind, value, stack,
and ``workload`` with the settings by the names of `_inference` and `_train`."""

_GPUS: Final[dict[str, str]] = {
    "A100-80GB": "A100-SXM4-80GB",
    "H20-96GB": "H20",
    "H100": "H100 80GB HBM3",
    "A6000": "RTX A6000",
    "4090": "RTX 4090",
}


def reading(row: Row, timed: Timing) -> Span:
    """The published quantity of our timing."""
    work, kind = row["workload"], row["kind"]
    if kind == "step_seconds":
        return _step(timed, with_update=not work.get("no_step"))
    spans = {
        "train_tokens_per_s": timed.tokens_per_second,
        "train_samples_per_s": timed.samples_per_second,
        "forward_seconds": timed.prefill_seconds,
    }
    if kind in spans:
        found = spans[kind]
        assert found is not None
        return found
    assert timed.batch_seconds is not None
    tokens = work["new_tokens"] + (work["prompt"] if kind == "total_tokens_per_s" else 0)
    return timed.batch_seconds.rate(work["batch"] * tokens)


def _step(timed: Timing, *, with_update: bool) -> Span:
    assert timed.step_seconds is not None
    if with_update:
        return timed.step_seconds
    return timed.step_seconds.times(1 - timed.parts["update"] / sum(timed.parts.values()))


def scenario_of(row: Row) -> Scenario:
    """The run as published; raises `UnsupportedError` on a method without a formula."""
    work = row["workload"]
    gpu = find_gpu(_GPUS.get(str(row["gpu"]), str(row["gpu"])))
    versions = {
        name: ".".join(map(str, release(str(version).lstrip("~"))))
        for name, version in (row.get("stack") or {}).items()
        if name in TESTED and release(str(version).lstrip("~"))
    }
    model = _model(row)
    quantization = _quantization(work)
    loading = Loading(
        dtype=_dtype(work, model, quantization),
        quantization=quantization,
        strategy=work.get("strategy"),
    )
    return Scenario(
        model=model,
        workload=_inference(work, loading)
        if work["task"] == "inference"
        else _train(work, loading),
        machine=Machine(gpus=(gpu,) * int(row["n_gpu"])),
        stack=Stack(versions={**TESTED, **versions}),
    )


def _dtype(work: Row, model: ModelSpec, quantization: Quantization | None) -> DType:
    if work.get("dtype"):
        return DTYPES[work["dtype"]]
    return FLOAT16 if quantization is not None else model.stored_dtype


def _quantization(work: Row) -> Quantization | None:
    quant = work.get("quant")
    if not quant:
        return None
    return Quantization(
        scheme=quant["scheme"],
        compute_dtype=DTYPES[quant["compute_dtype"]] if quant.get("compute_dtype") else None,
        double_quant=bool(quant.get("double_quant")),
    )


def _inference(work: Row, loading: Loading) -> Workload:
    new_tokens = int(work.get("new_tokens") or 1)
    inference = Inference(
        batch_size=int(work["batch"]),
        context_len=int(work["prompt"]) + new_tokens,
        max_new_tokens=new_tokens,
        attn=work.get("attn"),
        full_logits=bool(work.get("full_logits")),
        padded=bool(work.get("padded")),
    )
    return Workload(loading=loading, inference=inference)


def _train(work: Row, loading: Loading) -> Workload:
    if work.get("peft"):
        raise UnsupportedError("a PEFT method without a formula for its time")
    lora = None
    if work["method"] != "full":
        lora = Lora(
            r=int(work["r"]),
            target_modules=tuple(work["targets"]) if work.get("targets") else None,
            modules_to_save=tuple(work.get("save") or ()),
            dtype=BFLOAT16 if work.get("adapter_dtype") == "bfloat16" else None,
        )
    autocast = work.get("autocast")
    training = Training(
        method=work["method"],
        trainer=work["trainer"],
        loss=work.get("loss", "model"),
        lora=lora,
        optimizer=work["optimizer"],
        micro_batch_size=int(work["batch"]),
        gradient_accumulation_steps=int(work.get("accum") or 1),
        max_length=int(work["seq"]),
        lengths=tuple(work.get("lengths") or ()),
        padded=bool(work.get("padded")),
        gradient_checkpointing=bool(work["checkpointing"]),
        bf16=autocast == "bf16",
        fp16=autocast == "fp16",
        prepare_kbit=work.get("prepare_kbit"),
        attn=work.get("attn"),
    )
    return Workload(loading=loading, training=training)


def _model(row: Row) -> ModelSpec:
    arch = row["workload"].get("arch")
    return _llama_like(json.dumps(arch)) if arch else resolve(row["model"])


@lru_cache(maxsize=32)
def _llama_like(arch: str) -> ModelSpec:
    """A Llama of the published shape, as a ``config.json`` that is read like any other."""
    sizes = json.loads(arch)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": sizes["hidden"], "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"], "num_key_value_heads": sizes["heads"],
        "intermediate_size": sizes["inter"], "vocab_size": sizes["vocab"],
        "tie_word_embeddings": sizes["tie"], "max_position_embeddings": 4096,
        "torch_dtype": "float32", "rms_norm_eps": 1e-5, "hidden_act": "silu",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        return resolve(str(path))
