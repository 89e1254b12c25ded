"""unslothai/notebooks: reserved memory before and after training, as their cells print it.

Before training is a load test of 4-bit checkpoints with their adapters. After it, Unsloth's own
kernels and rows of unstated lengths leave a wide range: its loss in chunks and checkpoints in host
memory at one end, whole logits and checkpoints on the GPU at the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from benchmarks.ledger.models import published_model, quantised_copy
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow, Result
from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT16, FLOAT32
from willfit.errors import WillfitError
from willfit.results import Estimate, GpuEstimate
from willfit.scenario import (
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED

ABOUT: Final = About(
    title="unslothai/notebooks, printed memory (Unsloth's kernels)",
    stack="other",
    unknowns={
        "longest row": "128 tokens to max_seq_length, 2048 at most; 1024 taken",
        "Unsloth's loss and checkpoints": "in chunks and in host memory, to whole logits and "
        "checkpoints on the GPU",
        "tables of cos and sin (2024)": "none in the layers, to those of transformers 4.40 in each",
        "modules left in 16 bit": "checkpoints that say unsloth-bnb-4bit, and Unsloth's choice of "
        "them since 2024-12, leave some layers in 16 bit: up to a tenth of the products",
    },
    misses=(
        Miss(
            why="its printed pair, 5.42 and 6.06 GB, is also that of Gemma 3n's (row 17)",
            ids=("unsloth_notebooks:21",),
        ),
        Miss(
            why="fine-tuned whole: Unsloth makes float32 weights and, by the figure, another copy "
            "of the tied table",
            ids=("unsloth_notebooks:71",),
        ),
        Miss(
            why="Unsloth loads a dynamic 4-bit checkpoint, whose list of 16-bit layers is not in "
            "the notebook",
            kind="max_memory_reserved before",
        ),
        Miss(
            why="the notebook's printed pair may be of an older cell (several pairs recur in other "
            "notebooks), its row lengths are not printed",
            kind="max_memory_reserved after",
        ),
    ),
)
_OWNERS: Final = (
    "Qwen", "meta-llama", "google", "mistralai", "microsoft", "ibm-granite", "LiquidAI",
    "TinyLlama", "deepseek-ai", "openai", "HuggingFaceH4", "codellama", "01-ai", "unsloth",
    "baidu", "tiiuae",
)  # fmt: skip
_ALIASES: Final = {
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0", "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct", "phi-4": "microsoft/phi-4",
    "phi-3-mini-4k-instruct": "microsoft/Phi-3-mini-4k-instruct",
    "mistral-7b": "mistralai/Mistral-7B-v0.1", "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "zephyr-sft": "mistralai/Mistral-7B-v0.1", "gemma-7b": "google/gemma-7b",
    "codegemma-7b": "google/gemma-7b", "magistral-small-2509":
    "mistralai/Mistral-Small-24B-Instruct-2501", "mistral-small-instruct-2409":
    "mistralai/Codestral-22B-v0.1",
}  # fmt: skip
"""Checkpoints by Unsloth's names; CodeGemma has Gemma's shapes, Magistral Mistral Small's,
Mistral Small of 2409 Codestral's (22 billion, and 32,768 entries)."""
_BEFORE: Final = "max_memory_reserved before"
_OF_2024: Final = "4.46.2"
"""transformers where Unsloth's banner does not name it, as until the autumn of 2024."""
_TABLES: Final = "4.40.0"
"""A release of then with tables of cos and sin in every layer, where Unsloth left them there."""
_SHORTEST, _TAKEN, _LONGEST = 128, 1024, 2048
"""Tokens; the notebooks' data sets are of instructions, whose rows seldom pass the longest."""
_SOME_IN_16_BIT: Final = 0.10
"""Most of the 4-bit products that a dynamic checkpoint leaves as they are (Unsloth's page of
2024-12: "<10% more VRAM")."""


def express(row: PublishedRow) -> Iterator[Result]:
    """Loading with adapters, then the whole run."""
    for entry in row["measured"]:
        kind = str(entry["kind"])
        obstacle = _obstacle(row, kind)
        if obstacle is not None:
            yield NotExpressed(kind=kind, reason=obstacle)
            continue
        before = kind.startswith(_BEFORE)
        yield _before(row, kind) if before else _after(row, kind)


def _obstacle(row: PublishedRow, kind: str) -> str | None:
    if row.get("stale_output_suspected"):
        return "the printed output recurs in other notebooks: copied, says the source"
    loader = str(row["load_args"].get("_fn", ""))
    others = loader.startswith(("FastSentenceTransformer", "FastVisionModel"))
    if others and not kind.startswith(_BEFORE):
        return f"{loader.partition('.')[0]}: sizes of its inputs are not in the notebook"
    if _model(str(row["model"])) is None:
        return f"no config of {row['model']} is known here"
    if "whisper" in str(row["model"]) and not kind.startswith(_BEFORE):
        return "frames of sound, of which a step's number is not in the notebook"
    if _gpu(row) is None:
        return f"GPU {row['gpu']} is not one that the catalogue has"
    if "balanced" in str(row["load_args"].get("device_map")):
        return "layers spread over GPUs whose number is not in the row"
    return None


def _gpu(row: PublishedRow) -> str | None:
    names = ("T4", "L4", "A100-SXM4-80GB", "A100-SXM4-40GB", "A10G", "H100", "B200")
    return next((name for name in names if name in str(row["gpu"])), None)


@lru_cache
def _model(name: str) -> ModelSpec | None:
    """The checkpoint that Unsloth copied, by the name without what Unsloth adds."""
    bare = re.sub(r"(-unsloth)?(-bnb-4bit)?$", "", name.rpartition("/")[2])
    wanted = [_ALIASES.get(bare.lower(), ""), name if "bnb" not in name else ""]
    wanted += [f"{owner}/{bare}" for owner in _OWNERS]
    wanted += [f"meta-llama/Meta-{bare}", f"{name}-bnb-4bit"]
    for candidate in filter(None, wanted):
        try:
            return published_model(candidate)
        except WillfitError:
            continue
    return None


@lru_cache
def _uploaded(base: str) -> ModelSpec:
    """Unsloth's own copy, in 4 bit already: it is what its loader fetches for a 16-bit name."""
    return quantised_copy(
        f"{base} in 4 bit",
        base,
        {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
    )


def _before(row: PublishedRow, kind: str) -> Expressed:
    scenario = _scenario(row, _TAKEN)
    four = _is_four_bit(row)
    base = _model(str(row["model"]))
    more = _more_in_16_bit(base) if four and base is not None else 0
    return Expressed(
        kind=kind,
        scenario=scenario,
        high_scenario=_with_tables(row, scenario),
        reading=_Loaded(),
        unknown_bytes=(0, more),
    )


def _with_tables(row: PublishedRow, scenario: Scenario) -> Scenario | None:
    """Of an unnamed release before October 2024; Unsloth replaced some models' rotary, not all."""
    banner = re.search(r"Unsloth (\d{4})\.(\d+)", str(row["notes"]))
    if (row.get("versions") or {}).get("transformers") or banner is None:
        return None
    if (int(banner[1]), int(banner[2])) >= (2024, 10):
        return None
    versions = {**scenario.stack.versions, "transformers": _TABLES}
    return replace(scenario, stack=Stack(versions=versions))


def _after(row: PublishedRow, kind: str) -> Expressed:
    longest = int(row["seq"]) if str(row["seq"]).isdigit() else _LONGEST
    packed = (row["train_args"] or {}).get("packing") == "True"
    high = _scenario(row, longest if packed else min(longest, _LONGEST))
    training = high.workload.training
    assert training is not None
    whole = replace(training, trainer="transformers", offload_activations=False)
    return Expressed(
        kind=kind,
        scenario=_scenario(row, longest if packed else min(longest, _TAKEN)),
        low_scenario=_scenario(row, min(longest, _SHORTEST)),
        high_scenario=replace(high, workload=replace(high.workload, training=whole)),
        reading=_Peak(),
        card_known=False,
    )


def _is_four_bit(row: PublishedRow) -> bool:
    return bool(row["quant"]) and row["load_args"].get("load_in_4bit") != "False"


def _more_in_16_bit(model: ModelSpec) -> int:
    """What a tenth of the products takes more at 2 bytes than at about half of one."""
    products = sum(
        t.num_elements * t.count
        for t in model.tensors
        if "Linear" in t.module and t.name.endswith("weight") and "lm_head" not in t.name
    )
    return round(_SOME_IN_16_BIT * products * 1.48)


def _scenario(row: PublishedRow, length: int) -> Scenario:
    gpu = _gpu(row)
    model = _model(str(row["model"]))
    assert gpu is not None
    assert model is not None
    half = FLOAT16 if gpu == "T4" else BFLOAT16
    version = str((row.get("versions") or {}).get("transformers") or _OF_2024)
    if _is_four_bit(row) and model.quantization is None:
        model = _uploaded(model.id)
    peft: Mapping[str, Any] = row["peft"] or {}
    lora = None
    if str(peft.get("r", "")).isdigit():
        targets = re.findall(r"[a-z_]+_proj|embed_tokens|lm_head", str(peft.get("target_modules")))
        kept = tuple(t for t in targets if t in ("embed_tokens", "lm_head"))
        projections = tuple(t for t in targets if t not in kept)
        lora = Lora(
            r=int(peft["r"]),
            target_modules=projections or ("all-linear",),
            modules_to_save=kept,
        )
    training = Training(
        method="full" if lora is None else "qlora" if _is_four_bit(row) else "lora",
        trainer="trl",
        lora=lora,
        optimizer=str(row["optimizer"] or "adamw_torch_fused"),
        micro_batch_size=int(row["batch"] or 1),
        gradient_accumulation_steps=int(row["grad_accum"] or 1),
        max_length=length,
        gradient_checkpointing=str(peft.get("use_gradient_checkpointing")) != "False",
        offload_activations=True,
        fp16=True if half is FLOAT16 else None,
    )
    return Scenario(
        model=model,
        workload=Workload(
            loading=Loading(dtype=FLOAT32 if lora is None else half),
            training=training,
        ),
        machine=Machine(gpus=(find_gpu(gpu),)),
        stack=Stack(versions={**TESTED, "transformers": version}),
    )


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """Reserved after loading: weights and adapters."""

    def __call__(self, estimate: Estimate) -> int:
        return max(map(self._of, estimate.gpus))

    def _of(self, gpu: GpuEstimate) -> int:
        loaded = max(p.reserved_bytes for p in gpu.phases if p.name == "load")
        return loaded + sum(p.num_bytes for p in gpu.phases[-1].components if p.name == "adapters")


@dataclass(frozen=True, kw_only=True)
class _Peak:
    """Largest reserved memory of the steps."""

    def __call__(self, estimate: Estimate) -> int:
        return max(p.reserved_bytes for gpu in estimate.gpus for p in gpu.phases)
