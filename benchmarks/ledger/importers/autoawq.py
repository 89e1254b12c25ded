"""AutoAWQ 0.1.6's table: fused modules on an RTX 4090, batch by prefill and as many new tokens.

examples/benchmark.py of v0.1.6 gives the fused cache as many positions as tokens are generated
(``max_new_tokens``) and reads ``max_memory_allocated`` at the end, loading included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.ledger.models import from_config, published_model
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, NotExpressed, PublishedRow
from willfit.devices import find_gpu
from willfit.dtypes import FLOAT16
from willfit.results import Estimate
from willfit.scenario import Inference, Loading, Machine, ModelSpec, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED

ABOUT: Final = About(
    title="AutoAWQ, table of its README",
    stack="other",
    unknowns={"transformers": "not recorded; 4.35 is of the release's date (November 2023)"},
    notes=(
        "While layers are fused, q, k and v exist twice, and the new layers' caches already: short "
        "prompts are set by that.",
        "Fused attention multiplies scores out for the prompt and casts them to float32 before the "
        "softmax (awq/modules/fused/attn.py): ten bytes a score.",
    ),
)
_OLDER: Final = Stack(versions={**TESTED, "transformers": "4.35.2"})
_LENGTHS: Final = re.compile(r"prefill (\d+) \+ decode (\d+)")
_NAMES: Final = {
    "TinyLlama-1.1B": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "CodeLlama-34b": "codellama/CodeLlama-34b-hf",
    "meta-llama/Llama-2-13b": "meta-llama/Llama-2-13b-hf",
    "meta-llama/Llama-2-7b": "meta-llama/Llama-2-7b-hf",
}
WARM_UP_BYTES: Final = 2 * 4 * 4096 * 4096
"""A float32 product of 4096 by 4096 before the run: input and output."""


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The larger of fusing and of prefill."""
    for entry in row["measured"]:
        kind = str(entry["kind"])
        lengths = _LENGTHS.match(str(row["seq"]))
        bits = re.search(r"(\d)bit g(\d+)", str(row["quant"]))
        if lengths is None or bits is None or lengths[1] != lengths[2]:
            yield NotExpressed(kind=kind, reason="the cache's length is known for equal halves")
            continue
        model = _model(row, int(bits[1]), int(bits[2]), int(lengths[1]))
        batch, length = int(row["batch"]), int(lengths[1])
        inference = Inference(
            batch_size=batch, context_len=length + 1, max_new_tokens=1, attn="eager"
        )
        yield Expressed(
            kind=kind,
            scenario=Scenario(
                model=model,
                workload=Workload(loading=Loading(dtype=FLOAT16), inference=inference),
                machine=Machine(gpus=(find_gpu("RTX 4090"),)),
                stack=_OLDER,
            ),
            reading=_FusedPeak(
                copies_bytes=_fused_bytes(model),
                cast_bytes=2 * batch * int(model.config["num_attention_heads"]) * length**2,
            ),
        )


def _model(row: PublishedRow, bits: int, group: int, length: int) -> ModelSpec:
    """The checkpoint; fused layers have tables of angles as long as the run, not as the model."""
    name = str(row["model"]).removesuffix(" AWQ")
    base = published_model(_NAMES.get(name, name)).config
    settings = {
        "quant_method": "awq", "bits": bits, "group_size": group, "version": "gemm",
        "zero_point": True, "backend": "gemm",
    }  # fmt: skip
    shorter = {**base, "max_position_embeddings": length, "quantization_config": settings}
    return from_config(f"{name}-AWQ", shorter)


@dataclass(frozen=True, kw_only=True)
class _FusedPeak:
    """The largest of fusing (q, k and v twice, and the cache), the warm-up and prefill."""

    copies_bytes: int
    cast_bytes: int
    """Scores in float32 beside those in float16 that eager attention would not hold."""

    def __call__(self, estimate: Estimate) -> int:
        """Bytes."""
        loaded = Reading(phases=("load",))(estimate)
        cache = Reading(phases=("prefill",), components=("kv_cache",))(estimate)
        prefill = Reading(phases=("prefill",))(estimate)
        fused = loaded + self.copies_bytes + cache
        return max(fused, loaded + WARM_UP_BYTES, prefill + self.cast_bytes)


def _fused_bytes(model: ModelSpec) -> int:
    """Packed q, k and v of all layers."""
    return sum(
        row.count * row.dtype.num_bytes(row.num_elements)
        for row in model.tensors
        if row.owner.endswith(("q_proj", "k_proj", "v_proj"))
    )
