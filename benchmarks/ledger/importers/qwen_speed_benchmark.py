"""QwenLM speed benchmark pages: batch 1, a prompt of fixed length, 2,048 new tokens.

The counter is the sum over GPUs of ``max_memory_allocated``, loading included
(github.com/QwenLM/Qwen3 examples/speed-benchmark/speed_benchmark_transformers.py). The Qwen1.5 and
Qwen2 pages were taken with transformers 4.38, which upcasts the logits of the whole prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.results import Estimate
from willfit.scenario import Inference, Loading, Machine, ModelSpec, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED

ABOUT: Final = About(
    title="QwenLM, speed benchmark pages",
    unknowns={
        "exllama's version (Qwen1.5 GPTQ-Int4)": "the second where its scratch of 65,536 bytes a "
        "row of the widest layer is in the figures (4B, 7B, 14B), the first where not; both ends "
        "for other sizes",
        "release of the Qwen1.5 page": "transformers 4.38.2, that of its month",
    },
    misses=(
        Miss(
            why="GPTQ in 4 bit over several GPUs: 9 to 13 GB more on the first GPU than its layers "
            "by accelerate's rule, which is exact for bfloat16, GPTQ-Int8 and AWQ; no number of "
            "layers and neither exllama's scratch gives the four figures",
            where=lambda row: row["quant"] == "GPTQ-Int4" and row["n_gpu"] > 1,
        ),
        Miss(
            why="the cell repeats the Qwen2 page's figure for 0.5B; the same checkpoint at 6,144 "
            "tokens is 0.04 GB above it, GPTQ-Int4 at one token 0.2 GB below",
            ids=("qwen_speed_benchmark:150",),
        ),
    ),
    notes=(
        "Sums over GPUs on the Qwen1.5 and Qwen2 pages are the first GPU's peak once for every "
        "GPU: growth a token is four bytes of logits on each of them, though only two have logits.",
        "How many layers the first GPU has follows from accelerate's rule, whose buffer is a mean "
        "of leaves; that of transformers 5 is their largest, and would give it one layer more.",
        "Qwen3's figures hold weights and the whole cache and no work of prefill: each long prompt "
        "is above the shorter one by exactly the cache. They are read off decoding.",
        "Qwen3 AWQ ran without flash attention, in an environment of its own: K and V repeated to "
        "all heads are in the figures, 16,384 bytes a token for the 4B.",
        "Qwen3 FP8 holds the output head by itself: 297 and 742 MiB, one copy to 10 MiB, beside "
        "the tied checkpoints. transformers 4.51.3 ties such a checkpoint on a CPU: the published "
        "config must be another.",
        "With flash attention Qwen2's class repeats K and V to all heads in 4.38 and 4.46.",
        "AutoGPTQ's kernel for 8 bit dequantises prompts by steps, six bytes a weight at once.",
    ),
)
_GPUS: Final = {"A100-80GB": "A100-SXM4-80GB", "H20-96GB": "H20"}
_EXLLAMA_2: Final = frozenset(f"Qwen/Qwen1.5-{size}-Chat-GPTQ-Int4" for size in ("4B", "7B", "14B"))
_EXLLAMA_1: Final = frozenset(
    f"Qwen/Qwen1.5-{size}-Chat-GPTQ-Int4" for size in ("0.5B", "1.8B", "72B")
)
_FIXES: Final = {"4.38": "4.38.2"}
_SAME_CODE: Final = {"4.46.0": "4.46.3"}
"""Fix releases that a side directory is made for."""
_COPY: Final = re.compile(r"^(?P<base>.+?)-(?P<method>GPTQ|AWQ|FP8)(?:-INT(?P<bits>\d))?$", re.I)
_PADDED: Final = {29568: 29696}
"""Intermediate size of the 72B, padded to a multiple of 128 × 8 before it was quantised (as the
catalogue's Qwen2.5-72B-Instruct-GPTQ-Int4 has it)."""
_GPTQ: Final[Mapping[str, Any]] = {
    "quant_method": "gptq", "group_size": 128, "desc_act": False, "sym": True,
}  # fmt: skip
_AWQ: Final[Mapping[str, Any]] = {
    "quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True,
    "backend": "gemm",
}  # fmt: skip
_FP8: Final[Mapping[str, Any]] = {
    "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
    "weight_block_size": [128, 128],
}  # fmt: skip


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The sum over GPUs of the allocated peaks."""
    for entry in row["measured"]:
        kind = str(entry["kind"])
        if row["gpu"] not in _GPUS:
            yield NotExpressed(kind=kind, reason=f"the card {row['gpu']!r} is not known")
            continue
        yield Expressed(
            kind=kind,
            scenario=_scenario(row, _kernel(row)),
            high_scenario=_scenario(row, "exllama_v2") if _is_either(row) else None,
            reading=_reading(row),
        )


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The same with the page's transformers and the installed torch."""
    for result in express(row):
        if isinstance(result, NotExpressed):
            yield result
            continue
        high = result.high_scenario
        yield replace(
            result,
            scenario=_traceable(result.scenario),
            high_scenario=None if high is None else _traceable(high),
        )


def _traceable(scenario: Scenario) -> Scenario:
    """FP8's layers of older releases need Triton, which has no CPU build: today's instead."""
    versions = {**scenario.stack.versions, "torch": TESTED["torch"]}
    stored = scenario.model.quantization
    if stored is not None and stored.method == "fp8":
        versions["transformers"] = TESTED["transformers"]
    version = versions["transformers"]
    versions["transformers"] = _SAME_CODE.get(version, version)
    return replace(scenario, stack=Stack(versions=versions))


@dataclass(frozen=True, kw_only=True)
class _FirstGpuTimes:
    """The older pages' sum: the first GPU's peak once for every GPU (see ``ABOUT``)."""

    gpus: int

    def __call__(self, estimate: Estimate) -> int:
        """Bytes."""
        return self.gpus * Reading(gpus=0)(estimate)


def _reading(row: PublishedRow) -> Reading | _FirstGpuTimes:
    if row["series"] == "Qwen3":
        return Reading(gpus="sum", phases=("load", "decode"))
    if row["series"] in ("Qwen1.5", "Qwen2"):
        return _FirstGpuTimes(gpus=int(row["n_gpu"]))
    return Reading(gpus="sum")


def _scenario(row: PublishedRow, kernel: str) -> Scenario:
    prompt, new_tokens = int(row["seq"]), int(row["new_tokens"])
    model = _model(row, kernel)
    return Scenario(
        model=model,
        workload=Workload(
            loading=Loading(dtype=model.stored_dtype),
            inference=Inference(
                context_len=prompt + new_tokens,
                max_new_tokens=new_tokens,
                attn="sdpa" if _is_by_autoawq(row) else "flash_attention_2",
            ),
        ),
        machine=Machine(gpus=(find_gpu(_GPUS[row["gpu"]]),) * int(row["n_gpu"])),
        stack=_stack(row),
    )


def _is_by_autoawq(row: PublishedRow) -> bool:
    """Qwen3's page has an environment of its own for AWQ, which lists no flash-attn."""
    return bool(row["series"] == "Qwen3" and "AWQ" in str(row["quant"]))


def _stack(row: PublishedRow) -> Stack:
    """The releases of the page; ``~4.38 (Qwen1.5 release)`` is taken for 4.38.2."""
    found: dict[str, str] = {}
    for name, text in dict(row["versions"]).items():
        number = re.search(r"\d+(\.\d+)+", str(text))
        if name in TESTED and number is not None:
            found[name] = _FIXES.get(number[0], number[0])
    return Stack(versions={**TESTED, **found})


def _kernel(row: PublishedRow) -> str:
    """AutoGPTQ's: exllama for 4 bit, of the second version where its scratch is in the figures."""
    if not str(row["quant"]).upper().endswith("4"):
        return "cuda_old"
    return "exllama_v2" if row["model"] in _EXLLAMA_2 else "exllama_v1"


def _is_either(row: PublishedRow) -> bool:
    """A checkpoint of the Qwen1.5 page whose exllama is not known from its figures."""
    gptq_4 = str(row["quant"]).upper() == "GPTQ-INT4"
    known = row["model"] in _EXLLAMA_1 or row["model"] in _EXLLAMA_2
    return bool(row["series"] == "Qwen1.5" and gptq_4 and not known)


def _model(row: PublishedRow, kernel: str) -> ModelSpec:
    """The checkpoint by its name; a quantised one as its base with the usual settings."""
    name = str(row["model"])
    found = _COPY.match(name)
    if found is None:
        return published_model(name)
    method, bits = found["method"].upper(), int(found["bits"] or 4)
    config = dict(published_model(found["base"]).config)
    if method == "FP8":
        settings, config["tie_word_embeddings"] = dict(_FP8), False
    else:
        width = int(config["intermediate_size"])
        config["intermediate_size"] = _PADDED.get(width, width)
        config["torch_dtype"] = "float16"
        settings = dict(_AWQ) if method == "AWQ" else {**_GPTQ, "bits": bits, "backend": kernel}
    label = f"{name} by {kernel}" if method == "GPTQ" else name
    return from_config(label, {**config, "quantization_config": settings})
