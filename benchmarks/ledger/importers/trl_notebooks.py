"""huggingface/trl notebooks: reserved memory before and after training, as their cells print it.

``max_memory_reserved`` right before ``trainer.train()``, when model and adapters are there, and
after it. Their releases are not printed: those of the outputs' dates (October 2025 to March 2026).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from benchmarks.ledger.models import published_model, quantised_copy
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow, Result
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.results import Estimate, GpuEstimate
from willfit.scenario import (
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
from willfit.scenario.stack import TESTED

ABOUT: Final = About(
    title="huggingface/trl, notebooks' printed memory",
    unknowns={
        "prepare_model_for_kbit_training": "TRL of 2025 called it, today's does not: "
        "without it to with it",
        "layers that a dynamic 4-bit copy leaves in 16 bit": "not in the notebook; none are taken",
        "longest row": "not printed: max_length as the notebook says, from half of it",
    },
    misses=(
        Miss(
            why="the printed output is from before the committed cell: TRL's notebooks were edited "
            "later (dtype, arguments), their outputs were not run again",
            where=lambda row: "4bit" in str(row["quant"]),
        ),
    ),
)
_STACK: Final = Stack(versions={**TESTED, "transformers": "4.57.6", "torch": "2.9.0"})
_TRACED: Final = Stack(versions={**TESTED, "transformers": "4.57.6"})
_GPUS: Final = {
    "T4": "T4",
    "A100-SXM4-80GB": "A100-SXM4-80GB",
    "L4": "L4",
    "A100": "A100-SXM4-40GB",
}
_COPIES: Final = {"unsloth/qwen3-14b-unsloth-bnb-4bit": "Qwen/Qwen3-14B"}
_NF4: Final[dict[str, Any]] = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
_BEFORE: Final = "max_memory_reserved before train"


def express(row: PublishedRow) -> Iterator[Result]:
    """Before training: what loading reserved and the adapters; after it, supervised steps alone."""
    return _express(row, _STACK)


def express_by_trace(row: PublishedRow) -> Iterator[Result]:
    """The same on the torch that is installed."""
    return _express(row, _TRACED)


def _express(row: PublishedRow, stack: Stack) -> Iterator[Result]:
    for entry in row["measured"]:
        kind = entry["kind"]
        before = kind.startswith(_BEFORE)
        obstacle = None if before else _obstacle(row)
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        nominal = _scenario(row, stack)
        yield Expressed(
            kind=kind,
            scenario=nominal,
            low_scenario=_shorter(nominal),
            high_scenario=_prepared(nominal) if row["quant"] else None,
            reading=loaded_reserved if before else peak_reserved,
        )


def _obstacle(row: PublishedRow) -> str | None:
    if not str(row["train_args"].get("_fn", "")).startswith("SFT"):
        return "GRPO's generation, reward and loss have no scenario"
    if row["seq"] in (None, "None"):
        return "rows of images and text of no stated length"
    return None


def _scenario(row: PublishedRow, stack: Stack) -> Scenario:
    peft: Mapping[str, Any] = row["peft"] or {}
    arguments: Mapping[str, Any] = row["train_args"]
    gpu = next(name for key, name in _GPUS.items() if key in row["gpu"])
    half = FLOAT16 if gpu == "T4" else BFLOAT16
    model = _model(str(row["model"]))
    quantization = None
    if row["quant"] and model.quantization is None:
        quantization = Quantization(scheme="nf4", double_quant=True, compute_dtype=half)
    seq = str(row["seq"])
    loads = str(row["load_args"].get("dtype", "")).removeprefix("torch.")
    training = Training(
        method="qlora" if row["quant"] else "lora",
        trainer="trl",
        lora=Lora(r=int(peft["r"]), target_modules=_targets(peft)),
        optimizer=row["optimizer"],
        micro_batch_size=int(row["batch"]),
        gradient_accumulation_steps=int(row["grad_accum"] or 1),
        max_length=int(seq) if seq.isdigit() else None,
        gradient_checkpointing=str(row["grad_ckpt"]) != "False",
        use_liger_kernel=arguments.get("use_liger_kernel") == "True",
        offload_activations=arguments.get("activation_offloading") == "True",
        fp16=True if half is FLOAT16 else None,
        attn=row["attn"] if row["attn"] in ("eager", "sdpa") else None,
    )
    whole = loads == "float32" and not row["quant"]
    return Scenario(
        model=model,
        workload=Workload(
            loading=Loading(dtype=FLOAT32 if whole else half, quantization=quantization),
            training=training,
        ),
        machine=Machine(gpus=(find_gpu(gpu),)),
        stack=stack,
    )


def _model(name: str) -> ModelSpec:
    """Unsloth's 4-bit copies by what they were made of."""
    base = _COPIES.get(name)
    return published_model(name) if base is None else quantised_copy(name, base, _NF4)


def _targets(peft: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a list that is written as Python."""
    text = str(peft["target_modules"])
    return tuple(ast.literal_eval(text)) if text.startswith("[") else (text,)


def _prepared(scenario: Scenario) -> Scenario:
    training = scenario.workload.training
    assert training is not None
    return _with(scenario, replace(training, prepare_kbit=True))


def _shorter(scenario: Scenario) -> Scenario:
    training = scenario.workload.training
    assert training is not None
    half = max((training.max_length or 1024) // 2, 1)
    return _with(scenario, replace(training, max_length=half))


def _with(scenario: Scenario, training: Training) -> Scenario:
    return replace(scenario, workload=replace(scenario.workload, training=training))


def loaded_reserved(estimate: Estimate) -> int:
    """Reserved after loading, or weights and adapters where those are more."""
    return max(map(_loaded, estimate.gpus))


def _loaded(gpu: GpuEstimate) -> int:
    reserved = max(p.reserved_bytes for p in gpu.phases if p.name in ("load", "adapters"))
    last = gpu.phases[-1]
    kept = ("weights", "quantization_state", "adapters")
    return max(reserved, sum(p.num_bytes for p in last.components if p.name in kept))


def peak_reserved(estimate: Estimate) -> int:
    """Largest reserved of all phases."""
    return max(p.reserved_bytes for gpu in estimate.gpus for p in gpu.phases)
