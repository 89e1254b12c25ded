"""modelscope/ms-swift ``LLM/Benchmark.md``: LoRA and full fine-tuning on A100-80GB, 2023 and 2024.

The counter is reserved memory after an epoch of rows of many lengths (3234 ± 2547 tokens; longer
ones than ``max_length`` are left out). Each new longest row finds no cached block large enough for
its logits, so the allocator keeps what the shorter ones had: that growth is simulated over lengths
of the stated distribution, whose order is the source's unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np

from benchmarks.ledger.growth import Shape, Steps, shape_of
from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow, RanOut, Result
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16
from willfit.estimator import estimate
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
    title="modelscope/ms-swift, benchmark of memory (2023, 2024)",
    unknowns={
        "order of the rows": "six orders of lengths of the stated mean and deviation, cut at "
        "max_length: the middle, the least and the most that the allocator then keeps",
        "lengths of ms-agent (tuners)": "not stated: from rows that are all max_length to the "
        "distribution of the other tables",
        "optimizer's copies after backward (full)": "from inside what the cache holds to beside it",
    },
    notes=(
        "Qwen's code was the checkpoint's own: its shapes are built as Qwen2's, q, k and v apart.",
    ),
)
_GPU: Final = find_gpu("A100-SXM4-80GB")
_MEAN, _DEVIATION, _SHORTEST, _LONGEST = 3234.4, 2547.5, 91, 19_548
"""Tokens of cls-fudan-news-zh by Qwen's tokenizer, as the page says."""
_FILLED: Final = 0.75
"""Packed rows are whole ones put together, at least this part of ``max_length``."""
_NO_LOGITS: Final = ("load", "clip", "step")
_STEPS: Final = 64
_ORDERS: Final = 6
_STACK: Final = Stack(
    versions={
        **TESTED, "torch": "2.1.1", "transformers": "4.36.2", "peft": "0.7.1",
        "bitsandbytes": "0.41.3",
    }
)  # fmt: skip

_TRACED: Final = Stack()


_REMOTE: Final[dict[str, Shape]] = {
    "qwen-1_8b": Shape(2048, 24, 16, 16, 5504, 151_936),
    "qwen-7b": Shape(4096, 32, 32, 32, 11_008, 151_936),
    "qwen-14b": Shape(5120, 40, 40, 40, 13_696, 152_064),
    "qwen-72b": Shape(8192, 80, 64, 64, 24_576, 152_064),
    "chatglm3-6b": Shape(4096, 28, 32, 2, 13_696, 65_024),
    "baichuan2-7b": Shape(4096, 32, 32, 32, 11_008, 125_696),
}
"""Models whose code came with the checkpoint, by their published configs."""
_PUBLISHED: Final = {
    "yi-6b": "01-ai/Yi-6B", "yi-34b": "01-ai/Yi-34B", "llama2-7b": "meta-llama/Llama-2-7b-hf",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
}  # fmt: skip
_QKV: Final = ("q_proj", "k_proj", "v_proj")
_SAME_AS_LORA: Final = ("lora", "adalora")
"""Methods whose adapters have about LoRA's shapes."""
_STATIC_OF_AN_EPOCH: Final = "the tuner has neither a formula here nor a surrogate class"


def express(row: PublishedRow) -> Iterator[Result]:
    """Reserved memory with what the allocator keeps of rows of other lengths."""
    if row.get("oom"):
        obstacle = _obstacle(row)
        if obstacle is None:
            yield RanOut(scenario=_scenario(row))
        return
    for entry in row["measured"]:
        obstacle = _obstacle(row)
        if obstacle is not None:
            yield NotExpressed(kind=entry["kind"], reason=obstacle)
            continue
        yield _expressed(row, entry["kind"])


def express_by_trace(row: PublishedRow) -> Iterator[Result]:
    """By the installed releases: Qwen2's class came after the runs."""
    for result in express(row):
        if isinstance(result, Expressed):
            yield replace(result, scenario=replace(result.scenario, stack=_TRACED))
        else:
            yield result


def _obstacle(row: PublishedRow) -> str | None:
    if _model(row) is None:
        return f"no config of {row['model']} is known here, or its attention (ALiBi) has no formula"
    if row["n_gpu"] > 1 and row["parallelism"] != "ddp":
        return "layers trained on several GPUs by device_map have no formula"
    if row["quant"] and "gptq" in str(row["quant"]).lower():
        return "training on AutoGPTQ 0.5's kernels has no formula"
    method = (row.get("sft_type") or "lora").partition("+")[0]
    exp = str((row["peft"] or {}).get("exp", ""))
    if method == "full" and ("galore" in exp or "lisa" in exp):
        return "GaLore and LISA have no formula: the optimizer or the frozen layers change by step"
    if method not in (*_SAME_AS_LORA, "full"):
        return f"{method}: {_STATIC_OF_AN_EPOCH}"
    return None


def _base(row: PublishedRow) -> str:
    return str(row["model"]).lower().removesuffix("-chat")


def _model(row: PublishedRow) -> ModelSpec | None:
    base = _base(row)
    if base in _PUBLISHED:
        return published_model(_PUBLISHED[base])
    return _remote(base) if base in _REMOTE else None


@lru_cache
def _remote(base: str) -> ModelSpec:
    shape = _REMOTE[base]
    return from_config(
        base,
        {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "intermediate_size": shape.inner,
            "vocab_size": shape.vocab,
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        },
    )


def _scenario(row: PublishedRow) -> Scenario:
    peft: Mapping[str, Any] = row["peft"] or {}
    full = str(row.get("sft_type") or "lora").startswith("full")
    quantization = None
    if row["quant"]:
        quantization = Quantization(
            scheme="int8" if "8" in row["quant"] else "nf4",
            double_quant=True,
            compute_dtype=BFLOAT16,
        )
    eager = str(row["attn"]).startswith("eager")
    training = Training(
        method="full" if full else "qlora" if quantization else "lora",
        lora=None if full else _lora(peft),
        optimizer="adamw_torch",
        micro_batch_size=row["batch"],
        gradient_accumulation_steps=row["grad_accum"],
        max_length=row["seq"],
        padded=row["batch"] > 1,
        gradient_checkpointing=bool(row["grad_ckpt"]),
        use_reentrant=True,
        bf16=None if "no_mix" in str(peft.get("exp")) and full else True,
        max_grad_norm=0.5,
        attn="eager" if eager else "flash_attention_2",
    )
    model = _model(row)
    assert model is not None
    return Scenario(
        model=model,
        workload=Workload(
            loading=Loading(dtype=BFLOAT16, quantization=quantization), training=training
        ),
        machine=Machine(gpus=(_GPU,) * row["n_gpu"]),
        stack=_STACK,
    )


def _lora(peft: Mapping[str, Any]) -> Lora:
    """``DEFAULT`` is q, k and v; ``ALL`` every linear layer but the head."""
    text = f"{peft.get('target', '')} {peft.get('params', '')}"
    every = "all" in text.lower().replace("default", "")
    rank = peft.get("r")
    if rank is None:
        found = [part for part in text.split("/") if "rank=" in part]
        rank = int(found[0].partition("rank=")[2]) if found else 8
    return Lora(
        r=int(rank),
        target_modules=("all-linear",) if every else _QKV,
        dropout=0.05,
        use_dora="use_dora=True" in text,
    )


def _expressed(row: PublishedRow, kind: str) -> Expressed:
    scenario = _scenario(row)
    training = scenario.workload.training
    assert training is not None
    growths = sorted(_growths(row, scenario))
    middle = growths[len(growths) // 2]
    by_formula = estimate(scenario, search_limits=False)
    nominal = _Kept(growth=middle)(by_formula)
    beside = training.method == "full"
    low, high = (
        _Kept(growth=growth, beside=beside and growth == growths[-1])(by_formula) - nominal
        for growth in (growths[0], growths[-1])
    )
    return Expressed(
        kind=kind,
        scenario=scenario,
        reading=_Kept(growth=middle),
        unknown_bytes=(low, high),
    )


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Reserved memory: the backward's with what was kept of other lengths, or the step's."""

    growth: int
    """What the allocator keeps beyond the peak of what is allocated, bytes."""
    beside: bool = False
    """Whether the optimizer's copies find no room in it."""

    def __call__(self, estimate: Estimate) -> int:
        return max(map(self._of, estimate.gpus))

    def _of(self, gpu: GpuEstimate) -> int:
        work = [p.allocated_bytes for p in gpu.phases if p.name not in _NO_LOGITS]
        rest = [p.reserved_bytes for p in gpu.phases if self.beside or p.name in _NO_LOGITS]
        kept = max(*work, *rest) if self.beside else max(work)
        capacity = (gpu.capacity_bytes or kept) - (_GPU.context_bytes or 0)
        return min(max([kept + self.growth, *rest]), capacity)


def _growths(row: PublishedRow, scenario: Scenario) -> tuple[int, ...]:
    """What the allocator keeps, by order of the rows."""
    peft: Mapping[str, Any] = row["peft"] or {}
    training = scenario.workload.training
    assert training is not None
    assert training.max_length is not None
    found = _simulated(
        _REMOTE.get(_base(row)) or shape_of(scenario.model),
        training.max_length,
        row["batch"],
        bool(training.gradient_checkpointing),
        "packing=True" in str(peft.get("params")),
    )
    return (0, *found) if peft.get("exp") else found


@lru_cache(maxsize=256)
def _simulated(
    shape: Shape, longest: int, batch: int, checkpointing: bool, packed: bool
) -> tuple[int, ...]:
    """Reserved − allocated at their peaks after `_STEPS` steps, bytes, for `_ORDERS` orders."""
    steps = Steps(shape=shape, checkpointing=checkpointing)
    return tuple(
        steps.growth(_packed(longest, seed) if packed else _lengths(longest, batch, seed))
        for seed in range(_ORDERS)
    )


def _packed(longest: int, seed: int) -> tuple[int, ...]:
    random = np.random.default_rng(seed)
    return tuple(int(n) for n in random.integers(int(_FILLED * longest), longest + 1, _STEPS))


def _lengths(longest: int, batch: int, seed: int) -> tuple[int, ...]:
    """Tokens of successive micro-batches: log-normal, those over ``longest`` left out."""
    random = np.random.default_rng(seed)
    variance = math.log(1 + (_DEVIATION / _MEAN) ** 2)
    location = math.log(_MEAN) - variance / 2
    rows: list[int] = []
    while len(rows) < _STEPS * batch:
        drawn = np.exp(random.normal(location, math.sqrt(variance), 4096))
        rows += [int(x) for x in drawn if _SHORTEST <= x <= min(longest, _LONGEST)]
    batches = [batch * max(rows[i * batch : (i + 1) * batch]) for i in range(_STEPS)]
    batches[int(random.integers(_STEPS))] = batch * longest  # an epoch has one about as long
    return tuple(batches)
